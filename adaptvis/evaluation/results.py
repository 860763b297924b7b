"""What a summary holds: accuracies, gains, metrics, calibration and branches. Fractions throughout.

Intervals are 95 %. `model`, `task` and `method` say whose value it is.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from adaptvis.evaluation.statistics import Gain, McNemar, verdict_of

__all__ = [
    "SCORINGS",
    "Accuracy",
    "Branch",
    "Calibration",
    "CalibrationBin",
    "LeftOut",
    "Metric",
    "MetricGain",
    "PairedGain",
    "Scoring",
    "Summary",
    "Torn",
]

Scoring = Literal["reference", "strict"]
"""The task's published rule, or the strict one."""
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One method on one group of questions, under the summary's scoring.

    correct: fully right answers. accuracy: mean points. low, high: Wilson's interval where every
        answer is right or wrong and every question has its own image, else a bootstrap over
        images; `interval` says which.
    reference_accuracy, strict_accuracy: under either scoring.
    applied: share of the questions for which the steered pass ran.
    """

    model: str
    task: str
    method: str
    grouping: str
    group: str
    questions: int
    correct: int
    accuracy: float
    low: float
    high: float
    interval: str
    reference_accuracy: float
    strict_accuracy: float
    in_candidates: float
    applied: float
    mean_confidence: float | None
    alphas: dict[str, int]


@dataclass(frozen=True, slots=True)
class PairedGain:
    """A method against a reference method on one group of questions.

    test: McNemar's; None where points are fractions.
    """

    model: str
    task: str
    method: str
    reference: str
    grouping: str
    group: str
    gain: Gain
    test: McNemar | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One of the task's own metrics for one method. clusters: pictures, pairs or sets."""

    model: str
    task: str
    method: str
    name: str
    value: float
    low: float
    high: float
    clusters: int


@dataclass(frozen=True, slots=True)
class MetricGain:
    """The difference of a metric between two methods, leaving out the same questions for both."""

    model: str
    task: str
    method: str
    reference: str
    name: str
    difference: float
    low: float
    high: float
    clusters: int

    @property
    def verdict(self) -> str:
        """The difference in plain words."""
        return verdict_of(self.low, self.high, self.clusters)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Questions whose confidence lies in [start, end); the last bin includes its end."""

    start: float
    end: float
    questions: int
    mean_confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Accuracy of one method against the model's unsteered confidence; bins without questions are
    left out.

    expected_error: expected calibration error, `sum_b n_b / n * |accuracy_b - confidence_b|`
        (Guo et al. 2017).
    """

    model: str
    task: str
    method: str
    questions: int
    expected_error: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """The questions of one method that got the same coefficient.

    accuracy: of this method on them. first_accuracy: of the run's first method on the same ones.
    """

    model: str
    task: str
    method: str
    alpha: float
    applied: bool
    questions: int
    share: float
    accuracy: float
    first_accuracy: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Questions that could not be asked, or not under every method, and count for none."""

    model: str
    task: str
    questions: int
    reason: str


@dataclass(frozen=True, slots=True)
class Torn:
    """Questions that lack a partner, because another one of their pair or set was not asked.

    torn: how many. questions: of so many.
    """

    model: str
    task: str
    torn: int
    questions: int


@dataclass(frozen=True)
class Summary:
    """All results of a run, in the order of its records."""

    accuracies: tuple[Accuracy, ...]
    gains: tuple[PairedGain, ...]
    metrics: tuple[Metric, ...] = ()
    metric_gains: tuple[MetricGain, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    branches: tuple[Branch, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    torn: tuple[Torn, ...] = ()
    scoring: Scoring = "reference"

    def pairs(self) -> list[tuple[str, str]]:
        """The (model, task) combinations of the run."""
        return list(dict.fromkeys((a.model, a.task) for a in self.accuracies))

    def methods(self, model: str, task: str) -> list[str]:
        found = [a.method for a in self.accuracies if (a.model, a.task) == (model, task)]
        return list(dict.fromkeys(found))

    def accuracies_of(self, model: str, task: str, grouping: str) -> list[Accuracy]:
        key = (model, task, grouping)
        return [a for a in self.accuracies if (a.model, a.task, a.grouping) == key]

    def gains_of(self, model: str, task: str, grouping: str = "all") -> list[PairedGain]:
        key = (model, task, grouping)
        return [g for g in self.gains if (g.model, g.task, g.grouping) == key]

    def metrics_of(self, model: str, task: str) -> list[Metric]:
        return [m for m in self.metrics if (m.model, m.task) == (model, task)]

    def metric_gains_of(self, model: str, task: str) -> list[MetricGain]:
        return [g for g in self.metric_gains if (g.model, g.task) == (model, task)]

    def calibrations_of(self, model: str, task: str) -> list[Calibration]:
        return [c for c in self.calibrations if (c.model, c.task) == (model, task)]

    def branches_of(self, model: str, task: str) -> list[Branch]:
        return [b for b in self.branches if (b.model, b.task) == (model, task)]
