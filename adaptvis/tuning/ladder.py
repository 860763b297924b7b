"""One set of directions under every alpha, and which alpha is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis.evaluation.statistics import clustered_standard_error
from adaptvis.tuning.folds import FOLDS, fold_of_each

__all__ = ["Ladder"]


Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ladder:
    """Points of one set of directions under every alpha, and what the rules choose.

    alphas: the first is 0. points: [alphas, questions], 0 to 1. images: of each question.
    """

    name: str
    alphas: tuple[float, ...]
    points: Points
    images: tuple[str, ...]

    def choose(self, questions: NDArray[np.intp], *, always_steer: bool = False) -> int:
        """The smallest alpha within one standard error of the best, as its index."""
        first = 1 if always_steer else 0
        clusters = np.unique(np.array(self.images)[questions], return_inverse=True)[1]
        means = self.points[:, questions].mean(axis=1)
        best = first + int(np.argmax(means[first:]))
        for index in range(first, best):
            error = clustered_standard_error(
                self.points[best, questions], self.points[index, questions], clusters
            )
            if means[best] - means[index] <= error:
                return index
        return best

    def out_of_fold(self, *, seed: int = 0) -> Points:
        """Points of every question under the alpha that was chosen without its fold.

        Raises:
            DataError: fewer than ten pictures.
        """
        fold = fold_of_each(self.images, seed)
        result = np.empty(len(fold))
        for held_out in range(FOLDS):
            inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
            result[outside] = self.points[self.choose(inside), outside]
        return result
