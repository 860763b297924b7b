"""One line of JSON per answer, on disk before the next batch starts."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from adaptvis.engine import Answer
from adaptvis.errors import DataError
from adaptvis.evaluation.line_file import LineFile
from adaptvis.tasks import Grade, Sample

__all__ = [
    "Record",
    "RecordFile",
    "StoredRecords",
    "by_question",
    "iterate_records",
    "read_records",
]


@dataclass(frozen=True, slots=True)
class Record:
    """One answer of one model under one method, with its grade.

    confidence: largest softmax probability of the first token, unsteered; None if not finite.
    score: points under the task's published rule, 0 to 1. tags: of the sample.
    alpha: the coefficient used, 1 where nothing was steered; `applied` and `reason` say why.
    error: why the question was not answered, by any method; such a record counts in no accuracy.
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
    error: str = ""

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

    @classmethod
    def failed(cls, sample: Sample, error: str, *, task: str, model: str, method: str) -> "Record":
        """The record of a question that could not be answered, for one of its methods."""
        nothing = Answer("", (), math.nan, 1.0, False)
        grade = Grade(correct=False, strict=False, in_candidates=False)
        record = cls.of(sample, nothing, grade, task=task, model=model, method=method)
        return replace(record, error=error)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies a record within a run: model, task, sample and method."""
        return (self.model, self.task, self.id, self.method)

    def to_line(self) -> str:
        """One line of JSON with its line end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str, before: "Record | None" = None) -> "Record":
        """The record of one line.

        Args:
            before: the record of the line before. Records of one question say the same about it,
                and share the objects that say so: many of them fit in memory.

        Raises:
            ValueError: not the JSON of a record.
        """
        value: Any = json.loads(line)
        if not isinstance(value, dict) or set(value) != {f.name for f in fields(cls)}:
            raise ValueError("not the fields of a record")
        value["gold"] = tuple(value["gold"])
        if before is not None:
            for name in value:
                known = getattr(before, name)
                if isinstance(known, str | tuple | dict) and value[name] == known:
                    value[name] = known
        for name in ("method", "answer", "reason"):
            value[name] = sys.intern(value[name])
        return cls(**value)


def iterate_records(path: str | Path) -> Iterator[Record]:
    """The records of a file, one at a time, so that a long run's need not fit in memory.

    Raises:
        DataError: the file cannot be read, or a line is not a record; the message names it.
    """
    for record, _ in _with_ends(Path(path)):
        yield record


def read_records(path: str | Path) -> list[Record]:
    """All records of a file, in order.

    Raises:
        DataError: see :func:`iterate_records`.
    """
    return list(iterate_records(path))


def by_question(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Neighbouring records of one model, task and question: one per method."""
    for _, group in groupby(records, key=lambda r: (r.model, r.task, r.id)):
        yield list(group)


@dataclass(frozen=True)
class StoredRecords:
    """The records of a finished run, read from its file again each time they are gone through."""

    path: Path
    count: int

    def __iter__(self) -> Iterator[Record]:
        return iterate_records(self.path)

    def __len__(self) -> int:
        return self.count


class RecordFile(LineFile):
    """The growing `records.jsonl` of one run; see :class:`LineFile` for what it survives."""

    def append(self, records: Iterable[Record]) -> None:
        """Write a batch; on return it is on disk."""
        self.write("".join(record.to_line() for record in records))

    def stored(self) -> Iterator[tuple[Record, int]]:
        """The records on disk, each with the number of bytes up to its end.

        Raises:
            DataError: a line is not a record.
        """
        return _with_ends(self.path)


def _with_ends(path: Path) -> Iterator[tuple[Record, int]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (the with is below: an error of a caller is no OSError)
    except OSError as error:
        raise DataError(f"The records {path} cannot be read: {error.strerror}") from None
    end = 0
    record: Record | None = None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = Record.from_line(line.decode("utf-8"), record)
            except (ValueError, TypeError):
                raise DataError(f"{path}, line {number}: not a record of adaptvis") from None
            yield record, end
