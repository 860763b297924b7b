"""2DS: coloured shapes on a plain ground, six question categories (after user074's data set)."""

import hashlib
from pathlib import Path
from typing import Literal

from adaptvis.errors import ConfigError
from adaptvis.tasks.base import Part, Sample, Task
from adaptvis.tasks.generated import task_samples

__all__ = ["TWO_DS", "two_ds_from_parquet"]


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


def two_ds_from_parquet(path: Path) -> Task:
    """2DS from a local parquet file in the published schema; it has a test part only.

    Raises:
        DataError: on loading, the file cannot be read or has other columns.
    """

    def load(part: Part) -> list[Sample]:
        from adaptvis.data.two_ds import read_parquet

        if part == "validation":
            raise ConfigError(
                f"{path} is one test set without a {part} part; tune on the generated task '2ds'"
            )
        return task_samples(s for entry in read_parquet(path) for s in entry.samples())

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Task(
        name=path.stem,
        description=f"2DS questions from {path.name}",
        loader=load,
        source=f"{path.name} sha256:{digest}",
    )
