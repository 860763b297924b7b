"""Which questions belong together: those of one picture, and those that a metric joins."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

__all__ = ["size_tag", "torn_questions", "units_of"]


def units_of(
    images: Sequence[str], tags: Sequence[Mapping[str, str]] = (), joined_by: str | None = None
) -> list[int]:
    """The unit of each question, counted from 0 in the order of their first questions.

    Questions are of one unit where they share a picture or the value of the tag `joined_by`, or
    are linked by questions that do.

    Args:
        images: the picture of each question. tags: of each question; only read with `joined_by`.
    """
    keys: list[list[Hashable]] = [[("image", image)] for image in images]
    if joined_by is not None:
        for own, of in zip(keys, tags, strict=True):
            if joined_by in of:
                own.append(("tag", of[joined_by]))
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for own in keys:
        for key in own[1:]:
            parent[root(key)] = root(own[0])
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(own[0]), len(numbers)) for own in keys]


def size_tag(joined_by: str) -> str:
    """The tag that says how many questions of the whole task share a value of `joined_by`."""
    return f"{joined_by}_size"


def torn_questions(tags: Sequence[Mapping[str, str]], joined_by: str) -> int:
    """How many of these questions lack a partner: one of the same pair or set is not here.

    Questions without the tag, or without its size, count as whole.
    """
    size = size_tag(joined_by)
    here = Counter(of[joined_by] for of in tags if joined_by in of)
    return sum(
        joined_by in of and size in of and here[of[joined_by]] < int(of[size]) for of in tags
    )
