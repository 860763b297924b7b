"""The settings that a search compares, and how it finds the best threshold of each.

For accuracy every distinct threshold of every pair of coefficients is compared (exact). A metric
has to be computed anew for every candidate, so its search has a budget: all thresholds that change
an answer where the budget allows it, else an even ladder of them and then all of the best pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis.errors import DataError
from adaptvis.tuning.cuts import Cuts, best_cuts, fewest_on_a_side
from adaptvis.tuning.objective import Accuracy, Indices, Metric
from adaptvis.tuning.sweep import Sweep

__all__ = [
    "Candidate",
    "Found",
    "NoThresholdError",
    "adaptvis_candidates",
    "neutral_candidate",
    "scaling_candidates",
]

# Answers that one search may hand to a metric: some ten seconds.
_BUDGET = 10_000_000
_LADDER_SHARE = 0.5


class NoThresholdError(DataError):
    """No threshold leaves enough questions on both sides, so there is no AdaptVis to choose."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Indices into the grid; a single coefficient has low == high and threshold 0."""

    selection: int
    low: int
    high: int
    threshold: float = 0.0

    def given(self, sweep: Sweep, questions: Indices) -> Indices:
        """The flat index of the setting that answers each of these questions."""
        unsure = sweep.confidence[questions] < self.threshold
        alphas = np.where(unsure, self.low, self.high)
        return np.asarray(self.selection * len(sweep.grid.alphas) + alphas, dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates with their values.

    compared: how many settings competed; exact: whether they are all that the grid has.
    """

    candidates: list[Candidate]
    values: NDArray[np.float64]
    compared: int
    exact: bool


def neutral_candidate(sweep: Sweep) -> Candidate:
    """No steering: one candidate, not one per selection of layers."""
    everywhere = sweep.grid.layers.index(None) if None in sweep.grid.layers else 0
    return Candidate(everywhere, sweep.grid.neutral, sweep.grid.neutral)


def scaling_candidates(
    sweep: Sweep, objective: Accuracy | Metric, questions: Indices, *, always_steer: bool
) -> Found:
    """Every single coefficient in every selection of layers."""
    candidates = [Candidate(s, a, a) for s, a in sweep.grid.steered()]
    if not always_steer:
        candidates.append(neutral_candidate(sweep))
    values = [objective.value(questions, c.given(sweep, questions)) for c in candidates]
    return Found(candidates, np.array(values), len(candidates), True)


def adaptvis_candidates(sweep: Sweep, objective: Accuracy | Metric, questions: Indices) -> Found:
    """Every pair of coefficients in every selection of layers, each with its best threshold.

    Raises:
        NoThresholdError: too few questions for any threshold, or their confidences are equal.
    """
    cuts = Cuts.of(sweep.confidence[questions])
    if not len(cuts.below):
        raise NoThresholdError(
            f"{len(questions)} questions give no threshold, which needs "
            f"{fewest_on_a_side(len(questions))} of them on either side with different "
            "confidences; raise the limit"
        )
    if isinstance(objective, Accuracy):
        return _by_accuracy(sweep, objective, questions, cuts)
    return _by_metric(sweep, objective, questions, cuts)


def _pairs(sweep: Sweep) -> Iterator[tuple[int, int, int]]:
    selections, alphas = sweep.grid.shape
    for selection, low, high in np.ndindex(selections, alphas, alphas):
        if low != high:
            yield selection, low, high


def _by_accuracy(sweep: Sweep, objective: Accuracy, questions: Indices, cuts: Cuts) -> Found:
    selections, alphas = sweep.grid.shape
    points = objective.points.reshape(selections, alphas, -1)
    best = [best_cuts(points[s][:, questions], cuts) for s in range(selections)]
    thresholds = {int(c): cuts.threshold(int(c)) for b in best for c in np.unique(b.cut)}
    candidates, values = [], []
    for selection, low, high in _pairs(sweep):
        cut = int(best[selection].cut[low, high])
        candidates.append(Candidate(selection, low, high, thresholds[cut]))
        values.append(best[selection].score[low, high] / len(questions))
    return Found(candidates, np.array(values), len(candidates) * len(cuts.below), True)


def _by_metric(sweep: Sweep, objective: Metric, questions: Indices, cuts: Cuts) -> Found:
    pairs = list(_pairs(sweep))
    alphas = len(sweep.grid.alphas)
    ordered = objective.codes[:, questions[cuts.order]]
    distinct = [
        _distinct(ordered[s * alphas + low], ordered[s * alphas + high], cuts)
        for s, low, high in pairs
    ]
    compared: list[dict[int, float]] = [{} for _ in pairs]

    def compare(index: int, cut: int) -> None:
        if cut not in compared[index]:
            candidate = Candidate(*pairs[index], cuts.threshold(cut))
            value = objective.value(questions, candidate.given(sweep, questions))
            compared[index][cut] = value

    affordable = _BUDGET // len(questions)
    steps = max(1, int(_LADDER_SHARE * affordable) // len(pairs))
    if sum(map(len, distinct)) <= affordable:
        steps = max(map(len, distinct))
    for index, own in enumerate(distinct):
        taken = min(steps, len(own))
        places = ((np.arange(taken) + 0.5) * len(own) / taken).astype(int)
        for cut in own[places]:
            compare(index, int(cut))
    spent = sum(map(len, compared))
    for index in sorted(range(len(pairs)), key=lambda i: -max(compared[i].values())):
        if spent + len(distinct[index]) > affordable:
            break
        for cut in distinct[index]:
            compare(index, int(cut))
        spent += len(distinct[index])
    candidates, values = [], []
    for pair, own_values in zip(pairs, compared, strict=True):
        best = max(own_values.values())
        ties = sorted(cut for cut, value in own_values.items() if value >= best - 1e-12)
        candidates.append(Candidate(*pair, cuts.threshold(ties[len(ties) // 2])))
        values.append(best)
    count = sum(map(len, compared))
    return Found(candidates, np.array(values), count, count == sum(map(len, distinct)))


def _distinct(low: Indices, high: Indices, cuts: Cuts) -> Indices:
    """One cut of every run of cuts between which no answer changes: the middle one.

    Args:
        low, high: what the two coefficients answered, questions in order of confidence.
    """
    changes = np.concatenate([[0], np.cumsum(low != high)])[cuts.below]
    runs = np.split(np.arange(len(cuts.below)), np.flatnonzero(np.diff(changes)) + 1)
    return np.array([run[len(run) // 2] for run in runs], dtype=np.intp)
