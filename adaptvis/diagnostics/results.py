"""What every instrument returns: numbers, a table, a picture, and what the papers claim."""

from __future__ import annotations

import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adaptvis.errors import OutputError
from adaptvis.files import replace_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Finding", "Result", "finite", "picture_of", "verdict", "write_result"]


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

    Numbers that are not finite become null. Where the picture cannot be drawn the numbers are
    written without it, and a warning says so.

    Returns:
        The paths by kind: json, parquet, and png where it was drawn.

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
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(finite(result.rows())), table)
    content = json.dumps(finite(record), indent=2, allow_nan=False) + "\n"
    paths = {kind: folder / f"{result.instrument}.{kind}" for kind in ("json", "parquet", "png")}
    _write(paths["json"], content.encode())
    _write(paths["parquet"], table.getvalue())
    # Last, so that a picture that cannot be drawn takes no number with it.
    try:
        picture = picture_of(result)
    except Exception as problem:
        path = paths.pop("png")
        # One of an earlier run would show other numbers.
        path.unlink(missing_ok=True)
        warnings.warn(
            f"The picture of {result.instrument} could not be drawn ({type(problem).__name__}: "
            f"{problem}); its numbers are in {paths['json']}",
            stacklevel=2,
        )
    else:
        _write(paths["png"], picture)
    return paths


def picture_of(result: Result) -> bytes:
    """The result's picture as PNG; whatever drawing raises is raised."""
    import io

    content = io.BytesIO()
    result.figure().savefig(content, format="png", dpi=120)
    return content.getvalue()


def finite(value: Any) -> Any:
    """Plain values with None for every number that is not finite, which JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, content)
    except OSError as error:
        raise OutputError(
            f"Cannot write the results into {path.parent}: {error.strerror}; give another folder"
        ) from None
