"""Our figures beside published ones, with the interval of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from adaptvis.errors import DataError
from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import jackknife_interval
from adaptvis.evaluation.published import PUBLISHED, Published
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.statistics import points_interval
from adaptvis.tasks import Task

__all__ = ["ACCURACY", "Comparison", "compare"]

ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of ours beside the published one; all in per cent.

    published: None where the source has no such figure. low, high: 95 % interval of ours.
    """

    method: str
    metric: str
    questions: int
    ours: float
    low: float
    high: float
    published: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure, as rounded, lies in our interval."""
        if self.published is None:
            return None
        return self.low - 0.05 <= self.published <= self.high + 0.05

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"agrees": self.agrees}


def compare(
    row: Published, records: Mapping[str, Sequence[Record]], task: Task, *, seed: int = 0
) -> list[Comparison]:
    """Every published metric of the row, for each method that was run.

    Args:
        records: by method; of the unsteered model under `baseline`.

    Raises:
        DataError: the task does not compute a published metric of these answers.
    """
    baseline = PUBLISHED.get(row.baseline)
    comparisons = []
    for method, own in records.items():
        known: Mapping[str, float] = row.values
        if method == "baseline" and row.config is not None:
            known = baseline.values if baseline else {}
        for metric in row.values:
            value, low, high = _interval(own, task, metric, seed)
            comparisons.append(
                Comparison(
                    method,
                    metric,
                    len(own),
                    100 * value,
                    100 * low,
                    100 * high,
                    known.get(metric),
                )
            )
    return comparisons


def _interval(
    records: Sequence[Record], task: Task, metric: str, seed: int
) -> tuple[float, float, float]:
    """Value, low and high, as the tables of an evaluation have them."""
    images = [r.image_id for r in records]
    if metric != ACCURACY:
        metrics = task.metrics
        if metrics is None or metric not in metrics(records):
            raise DataError(f"The task {task.name} does not compute {metric} of these questions")
        return jackknife_interval(
            lambda answers: float(metrics(answers)[metric]),
            records,
            clusters_of(records, images, task.joined_by),
            seed=seed,
        )
    points = [r.score for r in records]
    low, high, _ = points_interval(points, images, seed=seed)
    return sum(points) / len(points), low, high
