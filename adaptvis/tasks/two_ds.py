"""2DS: coloured shapes on a plain ground, six question categories (after user074's data set)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks.base import Part, Sample, Task
from adaptvis.tasks.files import digest
from adaptvis.tasks.generated import task_samples
from adaptvis.tasks.hub import HubRows, read_hub

if TYPE_CHECKING:
    from adaptvis.data.two_ds import Entry

__all__ = ["TWO_DS", "TWO_DS_FILE", "TWO_DS_HUB", "two_ds_from_hub", "two_ds_from_parquet"]

TWO_DS_HUB = "user074/2DSyntheticDataset"
TWO_DS_FILE = "data/train-00000-of-00001.parquet"


def _load(part: Part) -> list[Sample]:
    from adaptvis.data.two_ds import two_ds_samples

    splits: tuple[Literal["validation", "test"], ...] = (
        ("validation", "test") if part == "all" else (part,)
    )
    return task_samples(s for split in splits for s in two_ds_samples(split=split))


TWO_DS = Task(
    name="2ds",
    description="500 scenes of 2-6 coloured shapes, 3000 questions in six categories (generated)",
    loader=_load,
    source="adaptvis.data.two_ds, seed 0",
)


def two_ds_from_parquet(path: Path, name: str = "") -> Task:
    """2DS from a local parquet file in the published schema; it has a test part only.

    Raises:
        DataError: on loading, the file cannot be read or has other columns.
    """
    from adaptvis.data.two_ds import read_parquet

    source = f"{path.name} sha256:{digest(path)}"
    return _published(name or path.stem, str(path), source, partial(read_parquet, path))


def two_ds_from_hub(hub: str) -> Task:
    """2DS as published on the hub, or a local copy of it; it has a test part only.

    Raises:
        DataError: the data set cannot be loaded; on loading, it has other columns.
    """
    rows = read_hub(hub, "train", images=("image_filename",))
    return _published(
        "2ds", rows.name, f"{rows.name} sha256:{rows.digest}", partial(_entries, rows)
    )


def _entries(rows: HubRows) -> "list[Entry]":
    from adaptvis.data.two_ds import entry_of_row

    try:
        return [
            entry_of_row({**entry.fields, **rows.pictures[index]})
            for index, entry in enumerate(rows.entries)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{rows.name} does not have the columns of 2DS: {error!r}") from error


def _published(name: str, shown: str, source: str, read: "Callable[[], list[Entry]]") -> Task:
    def load(part: Part) -> list[Sample]:
        if part == "validation":
            raise ConfigError(
                f"{shown} is one test set without a {part} part; tune on the generated task '2ds'"
            )
        return task_samples(s for entry in read() for s in entry.samples())

    return Task(name=name, description=f"2DS questions from {shown}", loader=load, source=source)
