"""Which answers the report shows: those that steering made right, and those that it made wrong."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from adaptvis.attention_map import AnswerKey
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import Scoring
from adaptvis.evaluation.summary import answered_by_all, right

__all__ = ["PER_DIRECTION", "Changed", "Direction", "changed_answers"]

PER_DIRECTION = 8
"""Examples shown of each model, task, method and direction."""

Direction = Literal["wrong to right", "right to wrong"]


@dataclass(frozen=True)
class Changed:
    """A question that two methods answered differently well.

    before: of the run's first method. of: how many answers changed like this one.
    """

    before: Record
    after: Record
    direction: Direction
    of: int

    @property
    def key(self) -> AnswerKey:
        return AnswerKey(self.after.model, self.after.task, self.after.id, self.after.method)


def changed_answers(
    records: Iterable[Record], count: int = PER_DIRECTION, *, scoring: Scoring = "reference"
) -> list[Changed]:
    """Up to `count` examples of each model, task, method and direction, the same every time.

    Categories take turns, so that one of them does not fill the list.
    """
    pairs: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        methods = pairs.setdefault((record.model, record.task), {})
        methods.setdefault(record.method, []).append(record)
    found = []
    for methods in pairs.values():
        kept, _ = answered_by_all(methods)
        first, *others = kept
        for name in others:
            fixed: list[tuple[Record, Record]] = []
            broken: list[tuple[Record, Record]] = []
            for before, after in zip(kept[first], kept[name], strict=True):
                was, is_now = right(before, scoring), right(after, scoring)
                if was != is_now:
                    (fixed if is_now else broken).append((before, after))
            found += _chosen(fixed, "wrong to right", count)
            found += _chosen(broken, "right to wrong", count)
    return found


def _chosen(
    changed: Sequence[tuple[Record, Record]], direction: Direction, count: int
) -> list[Changed]:
    by_category: dict[str, list[tuple[Record, Record]]] = {}
    for pair in changed:
        by_category.setdefault(pair[1].category, []).append(pair)
    turns = [
        (turn, number, pair)
        for number, pairs in enumerate(by_category.values())
        for turn, pair in enumerate(pairs)
    ]
    turns.sort(key=lambda item: item[:2])
    return [Changed(*pair, direction, len(changed)) for _, _, pair in turns[:count]]
