"""Tasks by name, or by the path of a local file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.tasks.base import Task
from adaptvis.tasks.custom import custom_task
from adaptvis.tasks.cv_bench import CV_BENCH
from adaptvis.tasks.gqa import GQA
from adaptvis.tasks.mmvp import MMVP
from adaptvis.tasks.pope import POPE
from adaptvis.tasks.prior import PRIOR_TASKS
from adaptvis.tasks.splits import Split, check_split
from adaptvis.tasks.two_ds import (
    TWO_DS,
    TWO_DS_FILE,
    TWO_DS_HUB,
    two_ds_from_hub,
    two_ds_from_parquet,
)
from adaptvis.tasks.vqav2 import VQAV2
from adaptvis.tasks.vsr import VSR
from adaptvis.tasks.whatsup import WHATSUP

__all__ = ["TASKS", "Listed", "get_task"]


class Listed(Protocol):
    """A name in the registry; the task itself is made when it is asked for."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...

    @property
    def questions(self) -> int | None:
        """How many were published; None where that depends on the file."""
        ...

    @property
    def needs(self) -> str:
        """In a few words, the data it needs."""
        ...

    @property
    def joined_by(self) -> str | None:
        """See :attr:`adaptvis.tasks.Task.joined_by`."""
        ...

    def task(self, data: Path | str | None = None, split: Split | None = None) -> Task: ...

    def instructions(self) -> str:
        """What to download and where to put it, as lines of text."""
        ...


@dataclass(frozen=True)
class _OwnParts:
    """A task whose parts are its own: generated, or marked in a file.

    made: without data; from_data: with it. One of both may be missing.
    """

    name: str
    description: str
    questions: int | None
    needs: str
    how: str
    made: Task | None = None
    from_data: Callable[[Path | str], Task] | None = None
    joined_by: str | None = None

    def task(self, data: Path | str | None = None, split: Split | None = None) -> Task:
        if split not in (None, "reference"):
            raise ConfigError(
                f"Task {self.name!r} has its own validation and test parts; leave split {split!r} "
                "out"
            )
        if data is None:
            if self.made is None:
                raise DataError(f"Task {self.name!r} needs data: {self.how}")
            return self.made
        if self.from_data is None:
            raise ConfigError(f"Task {self.name!r} is generated and reads no data; leave it out")
        return self.from_data(data)

    def instructions(self) -> str:
        return self.how


def _custom(data: Path | str) -> Task:
    return _from_file(Path(data).expanduser(), {".jsonl": custom_task})


def _two_ds(data: Path | str) -> Task:
    if isinstance(data, str) and data.startswith("hf:"):
        return two_ds_from_hub(data.removeprefix("hf:") or TWO_DS_HUB)
    path = Path(data).expanduser()
    path = path / TWO_DS_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"Task '2ds' misses {path}: it is {TWO_DS_FILE} of the hub data set {TWO_DS_HUB}; "
            "without data, questions are generated"
        )
    return two_ds_from_parquet(path, "2ds")


_GENERATED = "is generated: nothing to download."
_OWN = (
    _OwnParts(
        *("2ds", TWO_DS.description, 3000, "nothing (generated)"),
        f"2ds {_GENERATED}\nThe published questions instead: --data FOLDER with {TWO_DS_FILE}\n"
        f"of the hub data set {TWO_DS_HUB}, or --data hf:{TWO_DS_HUB}.",
        TWO_DS,
        _two_ds,
    ),
    *(
        _OwnParts(t.name, t.description, 1500, "nothing (generated)", f"{t.name} {_GENERATED}", t)
        for t in PRIOR_TASKS
    ),
    _OwnParts(
        *("custom", "your own questions in a .jsonl file, images beside it", None, "your file"),
        "give the path of your .jsonl file to --data, or as the task's name. One object per line:\n"
        '  {"image": "cup.png", "question": "Where is the cup?", "answer": "left", '
        '"options": ["left", "right"]}\n'
        "Optional: images (a list), answers (a list), options, category, id, object_count, and\n"
        "part (validation or test). Images lie in the file's own folder.",
        from_data=_custom,
    ),
)

_ALL: tuple[Listed, ...] = (
    *_OWN[:-1],
    *WHATSUP,
    *VSR,
    *POPE,
    GQA,
    VQAV2,
    *CV_BENCH,
    *MMVP,
    _OWN[-1],
)
TASKS: Mapping[str, Listed] = {listed.name: listed for listed in _ALL}

_FILES: dict[str, Callable[[Path], Task]] = {
    ".jsonl": custom_task,
    ".parquet": two_ds_from_parquet,
}


def get_task(name: str, *, data: Path | str | None = None, split: Split | None = None) -> Task:
    """The task of that name, or the one in a `.jsonl` or `.parquet` (2DS) file.

    Args:
        data: a folder in the published layout, or `hf:org/name`; by default the benchmark's folder
            in the one that the environment variable ADAPTVIS_DATA names.
        split: how a benchmark without published parts is divided, see `adaptvis.tasks.splits`;
            by default as published (WhatsUp, VSR), or else by whole pictures and pairs.

    Raises:
        ConfigError: no task or split has that name; the message lists them.
        DataError: data is missing; the message says what is wanted and where it is published.
    """
    if split is not None:
        check_split(split)
    if name in TASKS:
        return TASKS[name].task(data, split)
    path = Path(name)
    if path.suffix not in _FILES:
        hint = "(or give the path of a .jsonl or a 2DS .parquet file)"
        raise ConfigError(unknown_name("task", name, TASKS, hint))
    if data is not None or split not in (None, "reference"):
        raise ConfigError(f"The task {name} is a file of its own; leave data and split out")
    return _from_file(path, _FILES)


def _from_file(path: Path, readers: Mapping[str, Callable[[Path], Task]]) -> Task:
    if path.suffix not in readers:
        raise ConfigError(f"The task file {path} must end in {' or '.join(readers)}")
    if not path.is_file():
        raise DataError(f"The task file {path} does not exist")
    return readers[path.suffix](path)
