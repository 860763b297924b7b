"""Intervals of ratios whose errors are shared by the questions of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Estimate", "above", "ratio_estimate"]

Estimate = dict[str, float | int | None]
"""value, low, high (95 %; None where unknown) and the number of clusters."""

_RESAMPLES = 2000


def above(line: float, low: float, high: float) -> bool | None:
    """Whether a quantity lies above a line; None where its interval holds the line."""
    return True if low > line else False if high < line else None


def ratio_estimate(
    numerator: Sequence[float],
    denominator: Sequence[float],
    clusters: Sequence[Any],
    *,
    seed: int = 0,
) -> Estimate:
    """The ratio of two sums, with a seeded percentile bootstrap over clusters.

    Args:
        numerator, denominator: one entry per question, in the same order.
        clusters: the image of each question; whole clusters are drawn.

    Returns:
        value is None where the denominator sums to 0; low and high are None for one cluster, and
        where a draw's denominator is 0.
    """
    names, index = np.unique(np.asarray(list(clusters)), return_inverse=True)
    count = len(names)
    above = np.bincount(index, weights=np.asarray(numerator, float), minlength=count)
    below = np.bincount(index, weights=np.asarray(denominator, float), minlength=count)
    value = float(above.sum() / below.sum()) if below.sum() else None
    estimate: Estimate = {"value": value, "low": None, "high": None, "images": count}
    if value is None or count < 2:
        return estimate
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    sums = draws @ below
    if not sums.all():
        return estimate
    low, high = np.percentile(draws @ above / sums, [2.5, 97.5])
    return {**estimate, "low": float(low), "high": float(high)}
