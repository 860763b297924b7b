"""Which questions depend on each other: those of one image, one pair or one set."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptvis.tasks import Answered

__all__ = ["clusters_of"]

_LARGEST_GROUP = 8


def clusters_of(answers: Sequence[Answered], images: Sequence[str]) -> NDArray[np.intp]:
    """Questions that must not be torn apart: of one image, or of one pair or set.

    A tag that puts at most eight questions into one group says what belongs together.

    Args:
        answers: one per question. images: the picture of each.
    """
    keys: list[list[tuple[str, str]]] = [[("image", image)] for image in images]
    for name in sorted({tag for answer in answers for tag in answer.tags}):
        values = [answer.tags.get(name) for answer in answers]
        sizes = Counter(value for value in values if value is not None)
        if max(sizes.values()) <= _LARGEST_GROUP:
            for own, value in zip(keys, values, strict=True):
                if value is not None:
                    own.append((name, value))
    return _components(keys)


def _components(keys: Sequence[Sequence[tuple[str, str]]]) -> NDArray[np.intp]:
    """Which component each question is in, where questions that share a key are connected."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for own in keys:
        for key in own[1:]:
            parent[root(key)] = root(own[0])
    names = {root(own[0]): index for index, own in reversed(list(enumerate(keys)))}
    dense = np.unique([names[root(own[0])] for own in keys], return_inverse=True)[1]
    return np.asarray(dense, dtype=np.intp)
