"""Intervals for accuracies, and for the paired gain of one method over another.

An accuracy gets Wilson's score interval. A gain is a mean of paired differences; questions about
one image share its difficulty, so its interval comes from resampling whole images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RELIABLE_GAIN",
    "Z_95",
    "Gain",
    "clustered_standard_error",
    "paired_gain",
    "wilson_interval",
]

Z_95 = 1.959963984540054
"""The two-sided 95 % point of the standard normal distribution."""

FEWEST_IMAGES = 20
"""Below this many images a resampling interval is too narrow to decide anything."""

RELIABLE_GAIN = "reliable gain"

_CHUNK = 2**24


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as fractions (Wilson 1927); (0, 1) without trials.

    Raises:
        ValueError: successes outside 0..trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0..{trials}, got {successes}")
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    scale = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # At the ends the formula is exactly 0 or 1 and rounding would miss it.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high


@dataclass(frozen=True, slots=True)
class Gain:
    """How much a method gains over a reference on the same questions, as fractions.

    low, high: 95 % bootstrap interval over images. standard_error: closed form, clustered.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    questions: int
    images: int

    @property
    def verdict(self) -> str:
        """The gain in plain words."""
        if self.images < FEWEST_IMAGES:
            return "too few images to tell"
        if self.low > 0:
            return RELIABLE_GAIN
        if self.high < 0:
            return "reliable loss"
        return "no reliable effect"


def paired_gain(
    treated: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    reference: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    clusters: Sequence[str] | NDArray[np.intp],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Gain:
    """Mean difference in correctness with a seeded percentile bootstrap over clusters.

    Args:
        treated, reference: correctness of the same questions, or points from 0 to 1, in the same
            order, `[questions]`.
        clusters: the image of each question.
        resamples: number of bootstrap draws; each draws as many images as there are.

    Raises:
        ValueError: the three lengths differ, or are 0.
    """
    difference, index, count = _prepare(treated, reference, clusters)
    sums = np.bincount(index, weights=difference, minlength=count).astype(float)
    sizes = np.bincount(index, minlength=count).astype(float)
    mean = float(difference.mean())
    low, high = (-1.0, 1.0)
    if count > 1:
        low, high = np.percentile(_bootstrap_means(sums, sizes, seed, resamples), [2.5, 97.5])
    return Gain(
        mean=mean,
        low=float(low),
        high=float(high),
        standard_error=clustered_standard_error(treated, reference, clusters),
        questions=len(difference),
        images=count,
    )


def clustered_standard_error(
    treated: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    reference: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    clusters: Sequence[str] | NDArray[np.intp],
) -> float:
    """Standard error of the mean paired difference, clustered.

    `sqrt(G / (G - 1) * sum_g (S_g - n_g * mean)^2) / n` with G clusters, sums S_g of differences
    and sizes n_g (linearisation of a ratio, Cochran 1977, section 9A.3). Infinite for one cluster.
    """
    difference, index, count = _prepare(treated, reference, clusters)
    if count < 2:
        return math.inf
    residual = np.bincount(index, weights=difference - difference.mean(), minlength=count)
    return float(np.sqrt(count / (count - 1) * np.sum(residual**2)) / len(difference))


def _prepare(
    treated: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    reference: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_],
    clusters: Sequence[str] | NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.intp], int]:
    if not len(treated) == len(reference) == len(clusters) > 0:
        raise ValueError(
            "treated, reference and clusters need one entry per question, got "
            f"{len(treated)}, {len(reference)} and {len(clusters)}"
        )
    difference = np.asarray(treated, dtype=float) - np.asarray(reference, dtype=float)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return difference, index, len(names)


def _bootstrap_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Means of `resamples` draws of clusters with replacement, `[resamples]`."""
    generator = np.random.default_rng(seed)
    count = len(sums)
    # Clusters that sum to the same with the same size are interchangeable: drawing how often each
    # *kind* occurs is the same distribution and does not grow with the number of images.
    kinds, multiplicity = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    means = []
    step = max(1, _CHUNK // max(1, kinds.shape[1]))
    for start in range(0, resamples, step):
        draws = generator.multinomial(
            count, multiplicity / count, size=min(step, resamples - start)
        )
        means.append(draws @ kinds[0] / (draws @ kinds[1]))
    return np.concatenate(means)
