"""A published benchmark: what it asks, which files it needs, and how a task is made of them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks.base import Answered, Part, Sample, Task
from adaptvis.tasks.grading import Grade
from adaptvis.tasks.splits import Split, check_split, split_indices

__all__ = ["DATA_ROOT", "Benchmark", "Data", "Questions", "Wanted"]

DATA_ROOT = "ADAPTVIS_DATA"
"""Environment variable: the folder that holds one folder per benchmark."""

_HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file or, with a trailing slash, a folder that a benchmark reads.

    path: relative to the benchmark's folder.
    source: where it is published.
    local: needed beside a hub data set too.
    """

    path: str
    source: str
    optional: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Where to read: the files in `folder`, or rows of the hub data set `hub` beside them.

    upright: whether pictures are turned as their EXIF orientation says.
    """

    folder: Path
    hub: str | None = None
    upright: bool = True


@dataclass(frozen=True, slots=True)
class Questions:
    """What a benchmark's reader found: where, as text that changes with the data, and how to load.

    load: all questions in published order; the images are not opened.
    """

    source: str
    load: Callable[[], list[Sample]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by name.

    questions: number published, for lists.
    folder: its folder's name under the data root; empty where questions are generated.
    hub: the data set's id on the hub, where there is one that holds what is needed.
    hub_note: what else to know of it.
    read: the questions in a folder or on the hub.
    joined_by: the tag whose questions a metric joins; "grouped" splits keep them together too.
    split: where none is asked for; the published one, or else one that shares no picture.
    upright: whether pictures are turned as their EXIF orientation says; False where the published
        code takes the pixels as they are stored.
    """

    name: str
    description: str
    questions: int
    folder: str
    wanted: Sequence[Wanted]
    read: Callable[[Data], Questions]
    grader: Callable[[Sample, str], Grade]
    metrics: Callable[[Sequence[Answered]], dict[str, float]] | None = None
    hub: str | None = None
    hub_note: str = ""
    joined_by: str | None = None
    split: Split = "grouped"
    max_new_tokens: int = 16
    upright: bool = True

    def task(self, data: Path | str | None = None, split: Split | None = None) -> Task:
        """The benchmark as a task.

        Args:
            data: a folder, `hf:org/name`, or None for the folder under the data root.
            split: None is the benchmark's own.

        Raises:
            DataError: something is missing; the message says what, and where to get it.
            ConfigError: unknown split, or the benchmark is not on the hub.
        """
        rule = self.split if split is None else split
        check_split(rule)
        place = self._place(data)
        self._check(place)
        questions = self.read(place)
        parts = _Parts(questions, rule, self.joined_by)
        return Task(
            name=self.name,
            description=self.description,
            loader=parts.load,
            source=f"{questions.source}; {rule} split",
            max_new_tokens=self.max_new_tokens,
            grader=self.grader,
            metrics=self.metrics,
            joined_by=self.joined_by,
            index_rule=parts.indices,
        )

    @property
    def needs(self) -> str:
        """In a few words, the data it needs."""
        return f"{self.folder}/" + (" or hub" if self.hub else "")

    def instructions(self) -> str:
        """What to download and where to put it, as lines of text."""
        lines = [f"Wanted in the folder given with --data, by default ${DATA_ROOT}/{self.folder}:"]
        lines += [
            f"  {w.path}{' (optional)' if w.optional else ''}: from {w.source}" for w in self.wanted
        ]
        if self.hub:
            note = f" ({self.hub_note})" if self.hub_note else ""
            lines.append(f"Or from the hub: --data hf:{self.hub}{note}")
        if not self.upright:
            lines.append("Pictures are not turned by their EXIF orientation, as in published code.")
        return "\n".join(lines)

    def _place(self, data: Path | str | None) -> Data:
        root = os.environ.get(DATA_ROOT)
        usual = Path(root).expanduser() / self.folder if root else None
        if isinstance(data, str) and data.startswith(_HUB):
            if self.hub is None:
                raise ConfigError(
                    f"Task {self.name!r} is not read from the hub; give the folder of its files"
                )
            hub = data.removeprefix(_HUB) or self.hub
            return Data(usual or Path(self.folder), hub, self.upright)
        if data is not None:
            return Data(Path(data).expanduser(), upright=self.upright)
        if usual is None:
            raise DataError(
                f"Task {self.name!r} needs its data: give --data (data= in Python) a folder or "
                f"hf:org/name, or set {DATA_ROOT}. {self._one_line()}"
            )
        return Data(usual, upright=self.upright)

    def _check(self, place: Data) -> None:
        missing = [
            w
            for w in self.wanted
            if not w.optional
            and (w.local or place.hub is None)
            and not _there(place.folder / w.path, folder=w.path.endswith("/"))
        ]
        if missing:
            names = "; ".join(f"{w.path} (from {w.source})" for w in missing)
            raise DataError(
                f"Task {self.name!r} misses in the folder {place.folder}: {names}; "
                f"`adaptvis tasks {self.name}` shows the whole layout"
            )

    def _one_line(self) -> str:
        names = "; ".join(f"{w.path} (from {w.source})" for w in self.wanted if not w.optional)
        hub = f", or hf:{self.hub}" if self.hub else ""
        return f"It reads {names}{hub}"


def _there(path: Path, *, folder: bool) -> bool:
    return path.is_dir() if folder else path.is_file()


@dataclass
class _Parts:
    """The parts of a benchmark; its questions are read when a part is first asked for."""

    questions: Questions
    split: Split
    joined_by: str | None

    @cached_property
    def samples(self) -> list[Sample]:
        samples = self.questions.load()
        if not samples:
            raise DataError(f"There is no question in {self.questions.source}")
        return samples

    def indices(self, part: Part) -> list[int]:
        return split_indices(self.samples, part, self.split, self.joined_by)

    def load(self, part: Part) -> list[Sample]:
        return [self.samples[i] for i in self.indices(part)]

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the files itself.
        return {name: value for name, value in vars(self).items() if name != "samples"}
