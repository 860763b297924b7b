"""Where a threshold can cut the questions, and the best cut of every pair of coefficients.

Questions in order of confidence: a threshold puts the first k of them under alpha_low and the
rest under alpha_high. A mean over questions is then one cumulative sum up to k plus another from k
on, so that every distinct cut of every pair is compared without looking at a question twice.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEWEST_QUESTIONS",
    "BestCuts",
    "Cuts",
    "best_cuts",
    "fewest_on_a_side",
    "largest_sum",
    "shortest_between",
]

_SMALLEST_SHARE = 0.05
FEWEST_QUESTIONS = 20
_TIE = 1e-9


class Cuts(NamedTuple):
    """The distinct thresholds that leave questions on both sides.

    order: questions from the least confident on, `[questions]`.
    below: how many of them lie below each threshold, ascending, `[cuts]`.
    confidence: sorted, `[questions]`.
    """

    order: NDArray[np.intp]
    below: NDArray[np.intp]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, confidence: NDArray[np.float64]) -> "Cuts":
        """All cuts with at least 5 % and at least 20 of the questions on either side."""
        order = np.argsort(confidence, kind="stable")
        values = confidence[order]
        total = len(values)
        fewest = fewest_on_a_side(total)
        below = np.arange(fewest, total - fewest + 1)
        below = below[values[below - 1] < values[below]] if len(below) else below
        return cls(order, below, values)

    def threshold(self, cut: int) -> float:
        """The shortest decimal that cuts there: `confidence < threshold` is the lower side."""
        below = int(self.below[cut])
        return shortest_between(float(self.confidence[below - 1]), float(self.confidence[below]))


def fewest_on_a_side(total: int) -> int:
    """So many of the questions must lie on either side of a threshold."""
    return max(FEWEST_QUESTIONS, int(np.ceil(_SMALLEST_SHARE * total)))


def shortest_between(low: float, high: float) -> float:
    """The decimal of fewest digits between the two, the closest to the middle.

    Strictly between: confidences differ in the last digits from run to run.
    """
    for digits in range(1, 17):
        value = round((low + high) / 2, digits)
        if low < value < high:
            return value
    return high


class BestCuts(NamedTuple):
    """The best cut of every pair of coefficients, `[alpha_low, alpha_high]` each.

    score: the sum over the questions. cut: index into `Cuts.below`; of equally good cuts the one
    in the middle, which is the safest against chance.
    """

    score: NDArray[np.float64]
    cut: NDArray[np.intp]


def best_cuts(points: NDArray[np.float64], cuts: Cuts) -> BestCuts:
    """Compare every cut of every pair of coefficients; exact.

    Args:
        points: `[alphas, questions]`.
    """
    below, above = _sides(points, cuts)
    count = len(points)
    score = np.empty((count, count))
    cut = np.empty((count, count), dtype=np.intp)
    for low in range(count):
        sums = below[low] + above
        score[low] = sums.max(axis=1)
        for high in range(count):
            ties = np.flatnonzero(sums[high] >= score[low, high] - _TIE)
            cut[low, high] = ties[len(ties) // 2]
    return BestCuts(score, cut)


def largest_sum(points: NDArray[np.float64], cuts: Cuts) -> float:
    """The best score that any coefficient, or any pair with any cut, reaches."""
    if not len(cuts.below):
        return float(points.sum(axis=1).max())
    below, above = _sides(points, cuts)
    # For a given cut the two sides are independent of each other.
    return float(max(points.sum(axis=1).max(), (below.max(axis=0) + above.max(axis=0)).max()))


def _sides(
    points: NDArray[np.float64], cuts: Cuts
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over the questions below and above each cut, `[alphas, cuts]` each."""
    sums = np.cumsum(points[:, cuts.order], axis=1)
    below = sums[:, cuts.below - 1]
    return below, sums[:, -1:] - below
