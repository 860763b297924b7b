"""Choose ScalingVis and AdaptVis settings from a sweep, without asking the model again.

AdaptVis with coefficients (low, high) answers a question as ScalingVis with one of the two does,
so every AdaptVis candidate is a recombination of the sweep's answers.

Thousands of candidates are compared on a few thousand questions, so the best of them is partly
luck. Three rules keep that out of the result:

1. *One standard error*: of all candidates whose paired loss against the best is within one
   standard error (clustered by image), take the one closest to no steering: smallest
   |log alpha|, then all layers rather than some, then the more accurate.
2. *A threshold leaves questions on both sides*: at least 5 % and at least 20 of them.
3. *Cross-validation*: both methods are chosen on four fifths of the images and scored on the
   rest, five times. ScalingVis is kept only if its out-of-fold gain over no steering is reliable
   (its 95 % interval lies above 0), else alpha is 1. AdaptVis is kept only if its out-of-fold gain
   over what is left of ScalingVis is reliable, else both of its coefficients are ScalingVis's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import DataError
from adaptvis.evaluation.statistics import (
    RELIABLE_GAIN,
    Gain,
    clustered_standard_error,
    paired_gain,
)
from adaptvis.tuning.search import Sweep

__all__ = ["Selection", "select"]

_FOLDS = 5
_THRESHOLDS = 19
_SMALLEST_SHARE = 0.05
_FEWEST_QUESTIONS = 20
_NEUTRAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Indices into the sweep; a single coefficient has low == high and threshold 0."""

    selection: int
    low: int
    high: int
    threshold: float = 0.0

    def correct(self, sweep: Sweep, questions: NDArray[np.intp]) -> NDArray[np.bool_]:
        unsure = sweep.confidence[questions] < self.threshold
        rows = sweep.correct[self.selection][:, questions]
        hits: NDArray[np.bool_] = np.where(unsure, rows[self.low], rows[self.high])
        return hits


@dataclass(frozen=True)
class Selection:
    """The chosen settings, and what validation says of them.

    baseline_accuracy, scaling_accuracy, adaptvis_accuracy: of the settings, on the questions that
        they were chosen from, and so flattering.
    scaling_gain (over no steering), adaptvis_gain (over ScalingVis if that was kept, else over no
        steering): out of fold, of the procedure, and so not flattering.
    steers: whether ScalingVis was kept; if not, its alpha is 1.
    adaptive: whether AdaptVis was kept; if not, its two coefficients are ScalingVis's.
    """

    scaling: ScalingVis
    adaptvis: AdaptVis
    questions: int
    baseline_accuracy: float
    scaling_accuracy: float
    adaptvis_accuracy: float
    scaling_gain: Gain
    adaptvis_gain: Gain
    steers: bool
    adaptive: bool


def select(sweep: Sweep, *, seed: int = 0, always_steer: bool = False) -> Selection:
    """Choose by the three rules of this module.

    Args:
        seed: of the folds and the bootstrap.
        always_steer: never choose alpha = 1 for ScalingVis and keep both methods in any case,
            for controls: a setting to measure on a model that gains nothing.

    Raises:
        DataError: fewer images than folds, or too few questions for any threshold.
    """
    everything = np.arange(len(sweep.images))
    neutral = _neutral(sweep)
    scaling_hits = _out_of_fold(sweep, _choose_scaling, seed, always_steer)
    adaptvis_hits = _out_of_fold(sweep, _choose_adaptvis, seed, always_steer)
    neutral_hits = neutral.correct(sweep, everything)

    scaling_gain = paired_gain(scaling_hits, neutral_hits, sweep.images, seed=seed)
    steers = always_steer or scaling_gain.verdict == RELIABLE_GAIN
    scaling = _choose_scaling(sweep, everything, always_steer) if steers else neutral

    reference_hits = scaling_hits if steers else neutral_hits
    adaptvis_gain = paired_gain(adaptvis_hits, reference_hits, sweep.images, seed=seed)
    keep = always_steer or adaptvis_gain.verdict == RELIABLE_GAIN
    chosen = _choose_adaptvis(sweep, everything, always_steer) if keep else scaling

    def accuracy(candidate: _Candidate) -> float:
        return float(candidate.correct(sweep, everything).mean())

    return Selection(
        scaling=sweep.grid.config(
            sweep.grid.alphas[scaling.high], sweep.grid.layers[scaling.selection]
        ),
        adaptvis=AdaptVis(
            alpha_low=sweep.grid.alphas[chosen.low],
            alpha_high=sweep.grid.alphas[chosen.high],
            threshold=chosen.threshold if keep else _NEUTRAL_THRESHOLD,
            layers=sweep.grid.layers[chosen.selection],
            rows=sweep.grid.rows,
        ),
        questions=len(everything),
        baseline_accuracy=accuracy(neutral),
        scaling_accuracy=accuracy(scaling),
        adaptvis_accuracy=accuracy(chosen),
        scaling_gain=scaling_gain,
        adaptvis_gain=adaptvis_gain,
        steers=steers and scaling != neutral,
        adaptive=keep,
    )


def _neutral(sweep: Sweep) -> _Candidate:
    """No steering: one candidate, not one per selection of layers."""
    everywhere = sweep.grid.layers.index(None) if None in sweep.grid.layers else 0
    return _Candidate(everywhere, sweep.grid.neutral, sweep.grid.neutral)


def _choose_scaling(sweep: Sweep, questions: NDArray[np.intp], always_steer: bool) -> _Candidate:
    neutral = sweep.grid.neutral
    candidates = [
        _Candidate(s, a, a)
        for s in range(len(sweep.grid.layers))
        for a in range(len(sweep.grid.alphas))
        if a != neutral
    ]
    if not always_steer:
        candidates.append(_neutral(sweep))
    accuracies = np.array([c.correct(sweep, questions).mean() for c in candidates])
    return _simplest_of_the_best(sweep, questions, candidates, accuracies)


def _choose_adaptvis(sweep: Sweep, questions: NDArray[np.intp], always_steer: bool) -> _Candidate:
    confidence = sweep.confidence[questions]
    candidates: list[_Candidate] = []
    accuracies: list[float] = []
    for selection in range(len(sweep.grid.layers)):
        rows = sweep.correct[selection][:, questions].astype(float)
        for threshold in _thresholds(confidence):
            unsure = confidence < threshold
            # [low, high]: right below the threshold under low, plus right above it under high
            hits = rows[:, unsure].sum(axis=1)[:, None] + rows[:, ~unsure].sum(axis=1)[None, :]
            for low, high in np.ndindex(hits.shape):
                if low != high:
                    candidates.append(_Candidate(selection, low, high, threshold))
                    accuracies.append(hits[low, high] / len(questions))
    if not candidates:
        raise DataError(
            f"{len(questions)} validation questions are too few for a threshold with "
            f"{_FEWEST_QUESTIONS} questions on either side; raise the limit"
        )
    return _simplest_of_the_best(sweep, questions, candidates, np.array(accuracies))


def _thresholds(confidence: NDArray[np.float64]) -> list[float]:
    """Midway between neighbouring confidences, at equal shares of the questions."""
    values = np.sort(confidence)
    total = len(values)
    fewest = max(_FEWEST_QUESTIONS, int(np.ceil(_SMALLEST_SHARE * total)))
    found = set()
    for share in np.linspace(_SMALLEST_SHARE, 1 - _SMALLEST_SHARE, _THRESHOLDS):
        cut = round(share * total)
        if 0 < cut < total and values[cut - 1] < values[cut]:
            threshold = float(np.round((values[cut - 1] + values[cut]) / 2, 6))
            below = int((values < threshold).sum())
            if min(below, total - below) >= fewest:
                found.add(threshold)
    return sorted(found)


def _simplest_of_the_best(
    sweep: Sweep,
    questions: NDArray[np.intp],
    candidates: Sequence[_Candidate],
    accuracies: NDArray[np.float64],
) -> _Candidate:
    """The one-standard-error rule; candidates are tried from the simplest on."""
    best = int(np.argmax(accuracies))
    reference = candidates[best].correct(sweep, questions)
    images = np.unique(np.asarray(sweep.images)[questions], return_inverse=True)[1]
    largest_image = int(np.bincount(images).max())
    distance = [abs(np.log(a)) for a in sweep.grid.alphas]

    def complexity(index: int) -> tuple[float, bool, float]:
        c = candidates[index]
        some_layers = sweep.grid.layers[c.selection] is not None
        return (round(distance[c.low] + distance[c.high], 9), some_layers, -accuracies[index])

    for index in sorted(range(len(candidates)), key=complexity):
        loss = accuracies[best] - accuracies[index]
        correct = candidates[index].correct(sweep, questions)
        # By Cauchy-Schwarz the standard error is at most this; it spares most of the exact ones.
        bound = np.sqrt(2 * largest_image * np.sum(correct != reference)) / len(questions)
        if loss <= 0 or (
            loss <= bound and loss <= clustered_standard_error(correct, reference, images)
        ):
            return candidates[index]
    return candidates[best]


def _out_of_fold(
    sweep: Sweep,
    choose: Callable[[Sweep, NDArray[np.intp], bool], _Candidate],
    seed: int,
    always_steer: bool,
) -> NDArray[np.bool_]:
    """Correctness of every question under the setting chosen without its fold."""
    names, image = np.unique(np.asarray(sweep.images), return_inverse=True)
    if len(names) < 2 * _FOLDS:
        raise DataError(
            f"Tuning needs at least {2 * _FOLDS} images, got {len(names)}; raise the limit"
        )
    fold_of_image = np.random.default_rng(seed).permutation(len(names)) % _FOLDS
    fold = fold_of_image[image]
    correct = np.zeros(len(fold), dtype=bool)
    for held_out in range(_FOLDS):
        inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        correct[outside] = choose(sweep, inside, always_steer).correct(sweep, outside)
    return correct
