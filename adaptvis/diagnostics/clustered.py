"""Means and AUROC over questions, with intervals clustered by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.evaluation.jackknife import GROUPS, delete_groups, half_width
from adaptvis.evaluation.statistics import Z_95

__all__ = ["ClusteredMean", "Separation", "area_under_curve", "clustered_mean", "separation"]

Numbers = NDArray[np.float64]

Clusters = Sequence[Any] | NDArray[Any]
"""The image of each question."""


@dataclass(frozen=True, eq=False)
class ClusteredMean:
    """Means of many quantities over the same questions; all arrays have the quantities' shape.

    value: NaN where no question has the quantity. half: half the width of the 95 % interval,
    infinite where only one image has it.
    """

    value: Numbers
    half: Numbers

    def estimate(self, index: Any = ()) -> dict[str, float | None]:
        """One of them as plain JSON values: value, low, high; None where not known."""
        value, half = float(self.value[index]), float(self.half[index])
        known = np.isfinite(half)
        return {
            "value": value if np.isfinite(value) else None,
            "low": value - half if known else None,
            "high": value + half if known else None,
        }


def clustered_mean(values: Any, clusters: Clusters) -> ClusteredMean:
    """Means over the first axis, where they are not NaN, with the clustered standard error.

    `sqrt(G / (G - 1) * sum_g (S_g - n_g * mean)^2) / n` with G clusters, sums S_g and sizes n_g
    (linearisation of a ratio, Cochran 1977, section 9A.3), times the normal 95 % point.

    Args:
        values: [questions, ...]. clusters: the image of each question.
    """
    values = np.asarray(values, dtype=np.float64)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0).sum(axis=0) / count
    residual = np.zeros((len(names), *values.shape[1:]))
    np.add.at(residual, index, np.where(known, values - mean, 0))
    present = np.zeros((len(names), *values.shape[1:]), dtype=bool)
    np.logical_or.at(present, index, known)
    groups = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(groups / (groups - 1) * (residual**2).sum(axis=0)) / count
    return ClusteredMean(mean, np.where(groups > 1, Z_95 * error, np.inf))


def area_under_curve(scores: Numbers, positive: NDArray[np.bool_]) -> float:
    """AUROC: the chance that a positive scores above a negative, ties counting half.

    NaN without positives or without negatives (Mann and Whitney 1947).
    """
    wins = int(positive.sum()), int((~positive).sum())
    if not all(wins):
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = rank[positive].sum() - wins[0] * (wins[0] + 1) / 2
    return float(above / (wins[0] * wins[1]))


@dataclass(frozen=True)
class Separation:
    """AUROC of a score for right against wrong answers.

    value: None without right or without wrong answers. half: half the width of its 95 % interval.
    """

    value: float | None
    half: float
    right: int
    wrong: int

    @property
    def low(self) -> float:
        return 0.0 if self.value is None else max(0.0, self.value - self.half)

    @property
    def high(self) -> float:
        return 1.0 if self.value is None else min(1.0, self.value + self.half)


def separation(
    scores: Numbers, right: NDArray[np.bool_], clusters: Clusters, *, seed: int = 0
) -> Separation:
    """AUROC with an interval from leaving out groups of images (jackknife, Student's t).

    Args:
        scores: [questions], none NaN. right: bool [questions]. clusters: their images.
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    value = area_under_curve(scores, right)
    counts = int(right.sum()), int((~right).sum())
    if not all(counts):
        return Separation(None, float("inf"), *counts)
    left = [
        area_under_curve(scores[kept], right[kept])
        for kept in delete_groups(index, GROUPS, seed=seed)
    ]
    half = half_width(left) if len(left) > 1 else float("inf")
    return Separation(value, half if np.isfinite(half) else float("inf"), *counts)
