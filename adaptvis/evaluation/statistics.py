"""Intervals for accuracies, and for the paired gain of one method over another.

An accuracy of right and wrong answers gets Wilson's score interval where every question has an
image of its own. Questions about one image share its difficulty: there, and for points that may be
fractions, and for a gain (a mean of paired differences), whole images are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEWEST_IMAGES",
    "RELIABLE_GAIN",
    "Z_95",
    "Gain",
    "McNemar",
    "clustered_interval",
    "clustered_standard_error",
    "mcnemar",
    "paired_gain",
    "points_interval",
    "verdict_of",
    "wilson_interval",
]

Points = Sequence[bool] | Sequence[int] | Sequence[float] | NDArray[np.bool_] | NDArray[np.float64]
"""What each question earned, from 0 to 1; right and wrong are 1 and 0."""

Clusters = Sequence[str] | NDArray[np.intp]
"""The image of each question, or whatever else its errors share."""

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


def clustered_interval(
    points: Points, clusters: Clusters, *, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """95 % interval of mean points: a seeded percentile bootstrap over clusters.

    (0, 1) for one cluster, and without questions: nothing is known of other images then. Where
    all points are 0, or all 1, draws cannot differ: Wilson's interval of as many trials as there
    are clusters.

    Raises:
        ValueError: the two lengths differ.
    """
    if len(points) != len(clusters):
        raise ValueError(
            f"points and clusters need one entry per question, got {len(points)} and "
            f"{len(clusters)}"
        )
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return 0.0, 1.0
    if all(p == points[0] for p in points) and points[0] in (0, 1):
        return wilson_interval(len(names) * int(points[0]), len(names))
    sums = np.bincount(index, weights=np.asarray(points, float), minlength=len(names)).astype(float)
    sizes = np.bincount(index, minlength=len(names)).astype(float)
    return _percentiles(_bootstrap_means(sums, sizes, seed, resamples))


def points_interval(
    points: Points, clusters: Clusters, *, seed: int = 0
) -> tuple[float, float, str]:
    """95 % interval of mean points: low, high and its kind.

    "wilson" where every answer is right or wrong and no two questions are of one cluster, else
    "bootstrap", see :func:`clustered_interval`.

    Raises:
        ValueError: the two lengths differ.
    """
    independent = len(np.unique(np.asarray(clusters))) == len(clusters) == len(points)
    if independent and all(p in (0, 1) for p in points):
        return *wilson_interval(int(sum(points)), len(points)), "wilson"
    return *clustered_interval(points, clusters, seed=seed), "bootstrap"


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's exact test of two methods on the same questions.

    gained: only the method was right. lost: only the reference was. p_value: two-sided.
    """

    gained: int
    lost: int
    p_value: float


def mcnemar(treated: Sequence[bool], reference: Sequence[bool]) -> McNemar:
    """Are gains and losses equally likely? The exact binomial test (McNemar 1947, Cochran 1954).

    `p = min(1, 2 * P(X <= min(gained, lost)))` with X binomial over the discordant questions and
    probability 1/2. It takes questions as independent: where many share an image, trust the
    clustered interval of :func:`paired_gain` first.

    Args:
        treated, reference: whether each question was answered rightly, in the same order.

    Raises:
        ValueError: the lengths differ.
    """
    if len(treated) != len(reference):
        raise ValueError(
            f"treated and reference need one entry per question, got {len(treated)} and "
            f"{len(reference)}"
        )
    gained = sum(bool(t) and not r for t, r in zip(treated, reference, strict=True))
    lost = sum(bool(r) and not t for t, r in zip(treated, reference, strict=True))
    n, k = gained + lost, min(gained, lost)
    # From the largest term of the tail down; binomials of many questions overflow a float.
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    )
    tail = 0.0
    while k >= 0 and term > tail * 1e-17:
        tail += term
        term *= k / (n - k + 1)
        k -= 1
    return McNemar(gained, lost, min(1.0, 2 * tail))


def verdict_of(low: float, high: float, clusters: int) -> str:
    """What the 95 % interval of a difference amounts to, in plain words."""
    if clusters < FEWEST_IMAGES:
        return "too few images to tell"
    if low > 0:
        return RELIABLE_GAIN
    if high < 0:
        return "reliable loss"
    return "no reliable effect"


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
        return verdict_of(self.low, self.high, self.images)


def paired_gain(
    treated: Points,
    reference: Points,
    clusters: Clusters,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Gain:
    """Mean difference in points with a seeded percentile bootstrap over clusters.

    Args:
        treated, reference: points of the same questions, in the same order, `[questions]`.
        clusters: the image of each question.
        resamples: number of bootstrap draws; each draws as many images as there are.

    Raises:
        ValueError: the three lengths differ, or are 0.
    """
    difference, index, count = _prepare(treated, reference, clusters)
    sums = np.bincount(index, weights=difference, minlength=count).astype(float)
    sizes = np.bincount(index, minlength=count).astype(float)
    mean = float(difference.mean())
    low, high = -1.0, 1.0
    if count > 1:
        low, high = _percentiles(_bootstrap_means(sums, sizes, seed, resamples))
    return Gain(
        mean=mean,
        low=low,
        high=high,
        standard_error=clustered_standard_error(treated, reference, clusters),
        questions=len(difference),
        images=count,
    )


def clustered_standard_error(treated: Points, reference: Points, clusters: Clusters) -> float:
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
    treated: Points, reference: Points, clusters: Clusters
) -> tuple[NDArray[np.float64], NDArray[np.intp], int]:
    if not len(treated) == len(reference) == len(clusters) > 0:
        raise ValueError(
            "treated, reference and clusters need one entry per question, got "
            f"{len(treated)}, {len(reference)} and {len(clusters)}"
        )
    difference = np.asarray(treated, dtype=float) - np.asarray(reference, dtype=float)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return difference, index, len(names)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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
