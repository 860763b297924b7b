"""Standard errors of metrics that are no means, by leaving out groups of questions.

A bootstrap would draw a question twice, and pairs or sets of questions would be counted wrongly;
leaving whole clusters out never does that (delete-a-group jackknife, Kott 2001).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptvis.evaluation.statistics import Z_95, Gain
from adaptvis.tasks import Answered

__all__ = [
    "GROUPS",
    "delete_groups",
    "half_width",
    "jackknife_error",
    "jackknife_gain",
    "jackknife_interval",
]

GROUPS = 50
"""So many groups of clusters are left out in turn, or each cluster where there are fewer."""


def delete_groups(
    clusters: NDArray[np.intp], groups: int, *, seed: int
) -> Iterator[NDArray[np.intp]]:
    """Positions of the questions that are left when one group of clusters is out, per group."""
    names, index = np.unique(clusters, return_inverse=True)
    groups = min(groups, len(names))
    group = (np.random.default_rng(seed).permutation(len(names)) % groups)[index]
    for left_out in range(groups):
        yield np.flatnonzero(group != left_out)


def jackknife_error(values: Sequence[float]) -> float:
    """`sqrt((G - 1) / G * sum_g (v_g - mean)^2)` of the values without each of G groups.

    Infinite for one group.
    """
    count = len(values)
    if count < 2:
        return math.inf
    deviations = np.asarray(values) - np.mean(values)
    return float(np.sqrt((count - 1) / count * np.sum(deviations**2)))


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval (Student's t), from the values without each group.

    Infinite for one group, and where a value is not defined: the metric hangs on that group.
    """
    error = jackknife_error(values)
    if not math.isfinite(error):
        return math.inf
    return _students_t(len(values) - 1) * error


def jackknife_gain(
    metric: Callable[[Sequence[Answered]], float],
    treated: Sequence[Answered],
    reference: Sequence[Answered],
    clusters: NDArray[np.intp],
    *,
    seed: int = 0,
) -> Gain:
    """The difference of a metric on the same questions, with a 95 % interval (Student's t).

    Args:
        treated, reference: answers to the same questions, in the same order.
        clusters: which cluster each question is in, `[questions]`.
    """

    def difference(kept: NDArray[np.intp]) -> float:
        ours, theirs = [treated[i] for i in kept], [reference[i] for i in kept]
        return metric(ours) - metric(theirs)

    mean, half, error = _interval(difference, clusters, seed)
    return Gain(
        mean=mean,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
        standard_error=error,
        questions=len(treated),
        images=len(np.unique(clusters)),
    )


def jackknife_interval(
    metric: Callable[[Sequence[Answered]], float],
    answers: Sequence[Answered],
    clusters: NDArray[np.intp],
    *,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A metric with its 95 % interval: value, low, high. Arguments as above."""
    value, half, _ = _interval(lambda kept: metric([answers[i] for i in kept]), clusters, seed)
    return value, max(0.0, value - half), min(1.0, value + half)


def _interval(
    value_of: Callable[[NDArray[np.intp]], float], clusters: NDArray[np.intp], seed: int
) -> tuple[float, float, float]:
    """The value of all questions, half the width of its interval, and its standard error."""
    value = value_of(np.arange(len(clusters)))
    if len(np.unique(clusters)) < 2:
        return value, math.inf, math.inf
    values = [value_of(kept) for kept in delete_groups(clusters, GROUPS, seed=seed)]
    return value, half_width(values), jackknife_error(values)


def _students_t(degrees: int) -> float:
    """The two-sided 95 % point (Cornish and Fisher's expansion; within 0.01 from 10 degrees on)."""
    z = Z_95
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
