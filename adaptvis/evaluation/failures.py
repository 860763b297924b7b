"""Questions that could not be asked, counted from records."""

from collections.abc import Iterable
from dataclasses import dataclass

from adaptvis.evaluation.records import Record, by_question

__all__ = ["Failures", "count_failures"]


@dataclass(frozen=True, slots=True)
class Failures:
    """How many questions of a task one model could not be asked, under any method.

    questions: those that failed among them.
    first: the first error.
    """

    model: str
    task: str
    questions: int
    errors: int
    first: str


def count_failures(records: Iterable[Record]) -> tuple[Failures, ...]:
    """The failures of every model and task that has some, in the order of the records.

    Args:
        records: in the order in which a run writes them.
    """
    questions: dict[tuple[str, str], int] = {}
    errors: dict[tuple[str, str], int] = {}
    first: dict[tuple[str, str], str] = {}
    for question in by_question(records):
        place = (question[0].model, question[0].task)
        questions[place] = questions.get(place, 0) + 1
        if error := question[0].error:
            errors[place] = errors.get(place, 0) + 1
            first.setdefault(place, error)
    return tuple(Failures(*p, questions[p], errors[p], first[p]) for p in errors)
