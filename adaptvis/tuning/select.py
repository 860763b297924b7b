"""Choose ScalingVis and AdaptVis settings from a sweep, without asking the model again.

AdaptVis with coefficients (low, high) answers a question as ScalingVis with one of the two does,
so every AdaptVis candidate is a recombination of the sweep's answers.

Thousands of candidates are compared on a few thousand questions, so the best of them is partly
luck. Three rules keep that out of the result:

1. *One standard error*: of all candidates whose paired loss against the best is within one
   standard error (clustered by image), take the one closest to no steering: smallest
   |log alpha|, then all layers rather than some, then the better one. Each pair of coefficients
   competes with its best threshold.
2. *A threshold leaves questions on both sides*: at least 5 % and at least 20 of them.
3. *Cross-validation*: both methods are chosen on four fifths of the images and scored on the
   rest, five times. ScalingVis is kept only if its out-of-fold gain over no steering is reliable
   (its 95 % interval lies above 0), else alpha is 1. AdaptVis is kept only if its out-of-fold gain
   over what is left of ScalingVis is reliable, else both of its coefficients are ScalingVis's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.evaluation.statistics import RELIABLE_GAIN, Gain
from adaptvis.tuning.candidates import (
    Candidate,
    Found,
    NoThresholdError,
    adaptvis_candidates,
    neutral_candidate,
    scaling_candidates,
)
from adaptvis.tuning.folds import FOLDS, fold_of_each
from adaptvis.tuning.objective import Accuracy, Indices, Metric
from adaptvis.tuning.sweep import Sweep

__all__ = ["Selection", "select"]

_NEUTRAL_THRESHOLD = 0.5


@dataclass(frozen=True)
class Selection:
    """The chosen settings, and what validation says of them.

    objective: what was maximised; the three values are of it, fractions.
    baseline, scaling_value, adaptvis_value: of the settings, on the questions that they were
        chosen from, and so flattering.
    scaling_gain (over no steering), adaptvis_gain (over ScalingVis if that was kept, else over no
        steering): out of fold, of the procedure, and so not flattering.
    steers: whether ScalingVis was kept; if not, its alpha is 1.
    adaptive: whether AdaptVis was kept; if not, its two coefficients are ScalingVis's.
    chosen: the AdaptVis candidate that the search preferred, kept or not.
    compared: how many settings competed; exact: whether they are all that the grid has.
    no_threshold: why there was no AdaptVis to choose, as a sentence; adaptvis_gain and chosen are
        None then, and adaptive is False.
    """

    objective: str
    scaling: ScalingVis
    adaptvis: AdaptVis
    questions: int
    baseline: float
    scaling_value: float
    adaptvis_value: float
    scaling_gain: Gain
    adaptvis_gain: Gain | None
    steers: bool
    adaptive: bool
    chosen: Candidate | None
    compared: int
    exact: bool
    no_threshold: str = ""


def select(
    sweep: Sweep,
    objective: Accuracy | Metric | None = None,
    *,
    seed: int = 0,
    always_steer: bool = False,
) -> Selection:
    """Choose by the three rules of this module.

    Args:
        objective: what to maximise; accuracy where None.
        seed: of the folds and the intervals.
        always_steer: never choose alpha = 1 for ScalingVis and keep both methods in any case,
            for controls: a setting to measure on a model that gains nothing. AdaptVis needs a
            threshold all the same.

    Raises:
        DataError: fewer than ten images.
    """
    judge = objective or Accuracy(sweep)
    everything = np.arange(len(sweep.images))
    neutral = neutral_candidate(sweep)

    def best_scaling(questions: Indices) -> tuple[Candidate, Found]:
        found = scaling_candidates(sweep, judge, questions, always_steer=always_steer)
        return _simplest_of_the_best(sweep, judge, questions, found), found

    def best_adaptvis(questions: Indices) -> tuple[Candidate, Found]:
        found = adaptvis_candidates(sweep, judge, questions)
        return _simplest_of_the_best(sweep, judge, questions, found), found

    scaling_given = _out_of_fold(sweep, judge, best_scaling, seed)
    neutral_given = neutral.given(sweep, everything)
    preferred_scaling, found_scaling = best_scaling(everything)

    scaling_gain = judge.gain(scaling_given, neutral_given, seed=seed)
    steers = always_steer or scaling_gain.verdict == RELIABLE_GAIN
    scaling = preferred_scaling if steers else neutral

    reference = scaling_given if steers else neutral_given
    preferred, adaptvis_gain, no_threshold = None, None, ""
    compared, exact = found_scaling.compared, True
    try:
        adaptvis_given = _out_of_fold(sweep, judge, best_adaptvis, seed)
        preferred, found = best_adaptvis(everything)
        adaptvis_gain = judge.gain(adaptvis_given, reference, seed=seed)
        compared, exact = compared + found.compared, found.exact
    except NoThresholdError as problem:
        no_threshold = str(problem)
    reliable = adaptvis_gain is not None and adaptvis_gain.verdict == RELIABLE_GAIN
    keep = preferred is not None and (always_steer or reliable)
    adaptvis = preferred if preferred is not None and keep else scaling

    def value(candidate: Candidate) -> float:
        return judge.value(everything, candidate.given(sweep, everything))

    grid = sweep.grid
    return Selection(
        objective=judge.name,
        scaling=grid.config(grid.alphas[scaling.high], grid.layers[scaling.selection]),
        adaptvis=AdaptVis(
            alpha_low=grid.alphas[adaptvis.low],
            alpha_high=grid.alphas[adaptvis.high],
            threshold=adaptvis.threshold if keep else _NEUTRAL_THRESHOLD,
            layers=grid.layers[adaptvis.selection],
            rows=grid.rows,
        ),
        questions=len(everything),
        baseline=value(neutral),
        scaling_value=value(scaling),
        adaptvis_value=value(adaptvis),
        scaling_gain=scaling_gain,
        adaptvis_gain=adaptvis_gain,
        steers=steers and scaling != neutral,
        adaptive=keep,
        chosen=preferred,
        compared=compared,
        exact=exact,
        no_threshold=no_threshold,
    )


def _simplest_of_the_best(
    sweep: Sweep, judge: Accuracy | Metric, questions: Indices, found: Found
) -> Candidate:
    """The one-standard-error rule; candidates are tried from the simplest on."""
    best = int(np.argmax(found.values))
    reference = found.candidates[best].given(sweep, questions)
    distance = [abs(np.log(a)) for a in sweep.grid.alphas]

    def complexity(index: int) -> tuple[float, bool, float]:
        c = found.candidates[index]
        some_layers = sweep.grid.layers[c.selection] is not None
        return (round(distance[c.low] + distance[c.high], 9), some_layers, -found.values[index])

    for index in sorted(range(len(found.candidates)), key=complexity):
        loss = float(found.values[best] - found.values[index])
        candidate = found.candidates[index]
        if loss <= 0 or judge.within_one_error(
            loss, questions, candidate.given(sweep, questions), reference
        ):
            return candidate
    return found.candidates[best]


def _out_of_fold(
    sweep: Sweep,
    judge: Accuracy | Metric,
    choose: Callable[[Indices], tuple[Candidate, Found]],
    seed: int,
) -> Indices:
    """For every question, the setting that was chosen without its fold."""
    fold = fold_of_each(judge.clusters, seed)
    given = np.zeros(len(fold), dtype=np.intp)
    for held_out in range(FOLDS):
        inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        given[outside] = choose(inside)[0].given(sweep, outside)
    return given
