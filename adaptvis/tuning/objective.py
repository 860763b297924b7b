"""What a search maximises: accuracy, or a metric of the task.

Both judge *answers given to questions*: for some questions, the index of the sweep's setting
(layer selection times number of alphas, plus alpha) that answered each. Accuracy is a mean over
questions, and everything about it is exact and fast. A metric (pair accuracy, F1) is any function
of all answers: it is computed anew for every candidate, and its standard error comes from leaving
out groups of questions.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import delete_groups, jackknife_error, jackknife_gain
from adaptvis.evaluation.statistics import Gain, clustered_standard_error, paired_gain
from adaptvis.tasks import Answered, Task
from adaptvis.tuning.sweep import Sweep

__all__ = [
    "ACCURACY",
    "Accuracy",
    "Indices",
    "Metric",
    "check_objective",
    "metric_value",
    "objective_for",
]

ACCURACY = "accuracy"
Indices = NDArray[np.intp]

_ERROR_GROUPS = 20
# One answer moves a mean over questions by 1/n, a mean over pairs by 2/n, one over sets by 4/n.
_LARGEST_INFLUENCE = 4


class Accuracy:
    """The mean of the points: the share of right answers where nothing is half right.

    points: `[settings, questions]`. clusters: the image of each question, `[questions]`.
    """

    name = ACCURACY

    def __init__(self, sweep: Sweep) -> None:
        self.points = sweep.points.reshape(-1, len(sweep.images))
        self.clusters = np.unique(np.asarray(sweep.images), return_inverse=True)[1]

    def value(self, questions: Indices, given: Indices) -> float:
        """Of the answers that these settings gave to these questions; a fraction."""
        return float(self.points[given, questions].mean())

    def within_one_error(
        self, loss: float, questions: Indices, given: Indices, best: Indices
    ) -> bool:
        """Whether the paired loss against the best is at most its standard error."""
        clusters = self.clusters[questions]
        ours, theirs = self.points[given, questions], self.points[best, questions]
        # By Cauchy-Schwarz the standard error is at most this; it spares most of the exact ones.
        largest = int(np.bincount(clusters).max())
        bound = np.sqrt(2 * largest * np.sum((ours - theirs) ** 2)) / len(questions)
        return bool(loss <= bound and loss <= clustered_standard_error(ours, theirs, clusters))

    def gain(self, given: Indices, reference: Indices, *, seed: int) -> Gain:
        """Over all questions of the sweep, with its 95 % interval."""
        every = np.arange(self.points.shape[1])
        return paired_gain(
            self.points[given, every], self.points[reference, every], self.clusters, seed=seed
        )


class Metric:
    """A metric of the task, by name; larger is better.

    codes: which distinct answer each setting gave, `[settings, questions]`. clusters: questions
    that must not be torn apart, `[questions]`: of one image, one pair or one set.
    """

    def __init__(
        self,
        name: str,
        metrics: Callable[[Sequence[Answered]], dict[str, float]],
        sweep: Sweep,
        joined_by: str | None = None,
    ) -> None:
        if sweep.outcomes is None or sweep.codes is None:
            raise ConfigError(f"{name} needs the answers of the sweep; it holds points only")
        self.name = name
        self._metrics = metrics
        self._outcomes = sweep.outcomes
        self.codes = sweep.codes.reshape(-1, len(sweep.images))
        self.clusters = clusters_of(_unsteered(sweep), sweep.images, joined_by)

    def value(self, questions: Indices, given: Indices) -> float:
        return self.of(self._outcomes[self.codes[given, questions]].tolist())

    def of(self, answers: Sequence[Answered]) -> float:
        """The metric of some answers.

        Raises:
            DataError: it is not defined for them, for example without a complete pair.
        """
        return metric_value(self.name, self._metrics, answers)

    def within_one_error(
        self, loss: float, questions: Indices, given: Indices, best: Indices
    ) -> bool:
        changed = int(np.sum(self.codes[given, questions] != self.codes[best, questions]))
        clusters = self.clusters[questions]
        largest = int(np.bincount(clusters).max())
        if loss > _LARGEST_INFLUENCE * np.sqrt(2 * largest * changed) / len(questions):
            return False
        differences = [
            self.value(questions[kept], given[kept]) - self.value(questions[kept], best[kept])
            for kept in delete_groups(clusters, _ERROR_GROUPS, seed=0)
        ]
        return loss <= jackknife_error(differences)

    def gain(self, given: Indices, reference: Indices, *, seed: int) -> Gain:
        every = np.arange(self.codes.shape[1])
        return jackknife_gain(
            self.of,
            self._outcomes[self.codes[given, every]].tolist(),
            self._outcomes[self.codes[reference, every]].tolist(),
            self.clusters,
            seed=seed,
        )


def metric_value(
    name: str,
    metrics: Callable[[Sequence[Answered]], dict[str, float]],
    answers: Sequence[Answered],
) -> float:
    """One of a task's metrics, of some answers.

    Raises:
        DataError: it is not defined for them, for example without a complete pair.
    """
    value = metrics(answers).get(name, math.nan)
    if not math.isfinite(value):
        raise DataError(
            f"{name} is not defined for {len(answers)} of the questions; raise the limit"
        )
    return float(value)


def objective_for(name: str, task: Task, sweep: Sweep) -> Accuracy | Metric:
    """The objective of that name.

    Raises:
        ConfigError: it is neither accuracy nor a metric that the task computes.
    """
    if name == ACCURACY:
        return Accuracy(sweep)
    check_objective(name, task, _unsteered(sweep))
    assert task.metrics is not None
    return Metric(name, task.metrics, sweep, task.joined_by)


def check_objective(name: str, task: Task, answers: Sequence[Answered]) -> None:
    """Raises ConfigError where the task does not compute that metric for these answers."""
    if name == ACCURACY:
        return
    if task.metrics is None:
        raise ConfigError(
            f"The task {task.name} computes no metrics, so the objective can only be "
            f"{ACCURACY}, got {name!r}"
        )
    known = [ACCURACY, *task.metrics(answers)]
    if name not in known:
        raise ConfigError(unknown_name("objective", name, known))


def _unsteered(sweep: Sweep) -> Sequence[Answered]:
    if sweep.outcomes is None or sweep.codes is None:
        return ()
    answers: Sequence[Answered] = sweep.outcomes[sweep.codes[0, sweep.grid.neutral]].tolist()
    return answers
