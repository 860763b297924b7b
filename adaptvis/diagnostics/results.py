"""What every instrument returns: numbers, a table, a picture, and what the papers claim."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adaptvis.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Finding", "Result", "verdict", "write_result"]


@dataclass(frozen=True)
class Finding:
    """A claim of a paper, and whether this model shows it.

    measured: one sentence with the numbers of this run.
    holds: None where this run cannot tell (too few questions, an interval across the line).
    """

    claim: str
    measured: str
    holds: bool | None


def verdict(holds: bool | None) -> str:
    """Whether a claim holds, in words."""
    return {True: "holds", False: "does not hold", None: "cannot tell"}[holds]


@dataclass(frozen=True)
class Result(ABC):
    """The typed result of one instrument.

    instrument: name of its command and of its files.
    source: paper with section or equation.
    engine: :meth:`adaptvis.engine.Engine.describe` of the model.
    settings: everything else that decided the numbers (task, questions, seed, steering).
    """

    instrument: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    engine: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The few numbers that matter, as plain JSON values."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The whole result as a long table, one mapping of plain values per row."""

    @abstractmethod
    def figure(self) -> Figure:
        """The picture; drawn without a display, readable at 1000 pixels and in grey."""

    @abstractmethod
    def reading(self) -> str:
        """One paragraph: what was measured, on what, and how to read the picture."""

    def findings(self) -> list[Finding]:
        """The papers' claims that this result bears on; none by default."""
        return []


def write_result(result: Result, folder: Path) -> dict[str, Path]:
    """Write NAME.json, NAME.parquet and NAME.png into ``folder``; a file is whole or not there.

    Returns:
        The paths by kind: json, parquet, png.

    Raises:
        OutputError: the folder cannot be written.
    """
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    record = {
        "instrument": result.instrument,
        "title": result.title,
        "source": result.source,
        "engine": result.engine,
        "settings": result.settings,
        "summary": result.summary(),
        "findings": [vars(finding) for finding in result.findings()],
        "reading": result.reading(),
    }
    table, picture = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.Table.from_pylist(result.rows()), table)
    result.figure().savefig(picture, format="png", dpi=120)
    contents = {
        "json": (json.dumps(record, indent=2, allow_nan=False) + "\n").encode(),
        "parquet": table.getvalue(),
        "png": picture.getvalue(),
    }
    paths = {kind: folder / f"{result.instrument}.{kind}" for kind in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            part = paths[kind].with_suffix(f".{kind}.part")
            part.write_bytes(content)
            part.replace(paths[kind])
    except OSError as error:
        raise OutputError(
            f"Cannot write the results into {folder}: {error.strerror}; give another folder"
        ) from None
    return paths
