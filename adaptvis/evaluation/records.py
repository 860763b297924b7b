"""One line of JSON per answer, on disk before the next batch starts."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from adaptvis.engine import Answer
from adaptvis.errors import DataError, OutputError
from adaptvis.tasks import Grade, Sample

__all__ = ["Record", "RecordFile", "read_records"]


@dataclass(frozen=True, slots=True)
class Record:
    """One answer of one model under one method, with its grade.

    confidence: largest softmax probability of the first token, unsteered; None if not finite.
    score: points under the task's published rule, 0 to 1. tags: of the sample.
    alpha: the coefficient used, 1 where nothing was steered; `applied` and `reason` say why.
    """

    id: str
    task: str
    category: str
    model: str
    method: str
    question: str
    answer: str
    gold: tuple[str, ...]
    correct: bool
    strict: bool
    in_candidates: bool
    confidence: float | None
    alpha: float
    applied: bool
    reason: str
    image_id: str
    object_count: int | None
    agrees_with_prior: bool | None
    score: float
    tags: dict[str, str]

    @classmethod
    def of(
        cls, sample: Sample, answer: Answer, grade: Grade, *, task: str, model: str, method: str
    ) -> "Record":
        """Put together what is known about one answer."""
        return cls(
            id=sample.id,
            task=task,
            category=sample.category,
            model=model,
            method=method,
            question=sample.prompt,
            answer=answer.text,
            gold=sample.gold,
            correct=grade.correct,
            strict=grade.strict,
            in_candidates=grade.in_candidates,
            confidence=answer.confidence if math.isfinite(answer.confidence) else None,
            alpha=answer.alpha,
            applied=answer.applied,
            reason=answer.reason,
            image_id=sample.image_id,
            object_count=sample.object_count,
            agrees_with_prior=sample.agrees_with_prior,
            score=grade.points,
            tags=dict(sample.tags),
        )

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies a record within a run: model, task, sample and method."""
        return (self.model, self.task, self.id, self.method)

    def to_line(self) -> str:
        """One line of JSON with its line end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """The record of one line.

        Raises:
            ValueError: not the JSON of a record.
        """
        value: Any = json.loads(line)
        if not isinstance(value, dict) or set(value) != {f.name for f in fields(cls)}:
            raise ValueError("not the fields of a record")
        return cls(**(value | {"gold": tuple(value["gold"])}))


def read_records(path: str | Path) -> list[Record]:
    """All records of a file, in order.

    Raises:
        DataError: the file cannot be read, or a line is not a record; the message names it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"The records {path} cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            records.append(Record.from_line(line.decode("utf-8")))
        except (ValueError, TypeError):
            raise DataError(f"{path}, line {number}: not a record of adaptvis") from None
    return records


class RecordFile:
    """The growing `records.jsonl` of one run; open it once, append batches, close it.

    A killed process leaves whole lines and at most one torn last line. Opening cuts that off and
    :attr:`records` holds the rest. The file is locked, so that two processes cannot resume into it.

    Raises:
        DataError: a whole line is not a record.
        OutputError: the file cannot be opened, or another process writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 (closed in close())
        except OSError as error:
            raise OutputError(f"Cannot write {self.path}: {error.strerror}") from None
        try:
            self._lock()
            self._cut_torn_line()
            self.records = read_records(self.path)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Iterable[Record]) -> None:
        """Write a batch; on return it is on disk."""
        new = list(records)
        try:
            self._file.write("".join(r.to_line() for r in new).encode("utf-8"))
            self._sync()
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror}; make room and go on with --resume"
            ) from None
        self.records.extend(new)

    def keep(self, count: int) -> None:
        """Drop all but the first `count` records, on disk too."""
        size = sum(len(r.to_line().encode("utf-8")) for r in self.records[:count])
        self._file.truncate(size)
        self._sync()
        del self.records[count:]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
            self._sync()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"Another process is writing {self.path}") from None
        except OSError:  # some network file systems have no locks
            return
