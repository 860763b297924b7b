"""How questions are grouped for accuracies and gains."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from adaptvis.evaluation.records import Record

__all__ = ["ALL", "GROUPINGS", "members_of"]

ALL = "all questions"


def _agreement(record: Record) -> str | None:
    if record.agrees_with_prior is None:
        return None
    return "prior is right" if record.agrees_with_prior else "prior is wrong"


def _relation(record: Record) -> str | None:
    relation = record.tags.get("relation")
    # Where the relation is the category, it would say the same twice.
    return None if relation == record.category else relation


GROUPINGS: dict[str, Callable[[Record], str | None]] = {
    "all": lambda record: ALL,
    "category": lambda record: record.category,
    "relation": _relation,
    "object_count": lambda r: None if r.object_count is None else str(r.object_count),
    "prior": _agreement,
}
"""How questions are grouped; None leaves a question out of that grouping."""


def members_of(
    records: Sequence[Record], group_of: Callable[[Record], str | None]
) -> dict[str, list[int]]:
    """Positions of the records of each group, groups in order of name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        group = group_of(record)
        if group is not None:
            groups[group].append(index)
    return {g: groups[g] for g in sorted(groups, key=lambda g: (len(g) if g.isdigit() else 0, g))}
