"""Which questions depend on each other: those of one image, one pair or one set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptvis.tasks import Answered, units_of

__all__ = ["clusters_of"]


def clusters_of(
    answers: Sequence[Answered], images: Sequence[str], joined_by: str | None = None
) -> NDArray[np.intp]:
    """The cluster of each question, `[questions]`; a cluster must not be torn apart.

    Args:
        answers: one per question. images: the picture of each.
        joined_by: the tag whose questions the task's metrics join, see
            :attr:`adaptvis.tasks.Task.joined_by`.
    """
    units = units_of(images, [answer.tags for answer in answers], joined_by)
    return np.asarray(units, dtype=np.intp)
