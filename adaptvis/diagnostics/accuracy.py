"""What a change to a model costs: the same questions with and without it, in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.engine import Engine
from adaptvis.errors import DataError
from adaptvis.evaluation.asking import Asker, Request
from adaptvis.evaluation.statistics import FEWEST_IMAGES, paired_gain, points_interval
from adaptvis.tasks import Sample, Task, units_of

__all__ = ["ALL", "Accuracies", "Asked", "ask_points", "at_most", "compare"]

ALL = "all questions"

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """The questions of a comparison: the category of each, and what its errors are shared with."""

    categories: tuple[str, ...]
    clusters: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, samples: Sequence[Sample]) -> Asked:
        """The categories and clusters of these samples."""
        units = units_of([s.image_id for s in samples], [s.tags for s in samples], task.joined_by)
        return cls(tuple(sample.category for sample in samples), tuple(units))


@dataclass(frozen=True)
class Accuracies:
    """Accuracy with and without a change on the same questions of one group, as fractions.

    low, high: 95 % intervals, clustered by image. drop: original minus changed, paired.
    images: clusters behind the intervals; below 20 they decide nothing.
    """

    change: str
    group: str
    questions: int
    images: int
    original: float
    original_low: float
    original_high: float
    changed: float
    changed_low: float
    changed_high: float
    drop: float
    drop_low: float
    drop_high: float

    def row(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def ask_points(
    engine: Engine,
    task: Task,
    samples: Sequence[Sample],
    *,
    config: SteeringConfig | None = None,
    batch_size: int = 1,
    doing: str = "asking",
    progress: Progress = silent,
) -> Points:
    """What each question earns, float64 [questions], from 0 to 1; NaN where it could not be asked.

    Raises:
        DataError: no question could be asked; the message says why the first could not.
    """
    points: list[float] = []
    errors: list[str] = []
    request = Request((config,), task.max_new_tokens)
    for outcomes in Asker(engine, batch_size).ask(samples, request):
        for outcome in outcomes:
            sample = samples[len(points)]
            if outcome.answers:
                points.append(task.grade(sample, outcome.answers[0].text).points)
            else:
                errors.append(outcome.error)
                points.append(float("nan"))
        progress(doing, len(points), len(samples))
    if len(errors) == len(samples):
        raise DataError(f"No question could be asked ({doing}); the first: {errors[0]}")
    return np.asarray(points)


def compare(
    change: str, original: Points, changed: Points, asked: Asked, *, seed: int = 0
) -> list[Accuracies]:
    """Accuracy with and without a change: all questions, then each category.

    Questions that could not be asked both times are left out.

    Args:
        original, changed: float64 [questions], NaN where it could not be asked.
    """
    both = ~(np.isnan(original) | np.isnan(changed))
    categories = np.asarray(asked.categories)
    clusters = np.asarray(asked.clusters)
    names = sorted(set(asked.categories))
    groups = {ALL: both}
    if len(names) > 1:
        groups |= {name: both & (categories == name) for name in names}
    return [
        _compared(change, group, original[chosen], changed[chosen], clusters[chosen], seed)
        for group, chosen in groups.items()
        if chosen.any()
    ]


def at_most(limit: float, low: float | None, high: float | None, images: int) -> bool | None:
    """Whether a quantity is at most ``limit``, judged by its whole 95 % interval."""
    if low is None or high is None or images < FEWEST_IMAGES or low <= limit < high:
        return None
    return high <= limit


def _compared(
    change: str,
    group: str,
    original: Points,
    changed: Points,
    clusters: NDArray[np.intp],
    seed: int,
) -> Accuracies:
    before = points_interval(original, clusters, seed=seed)
    after = points_interval(changed, clusters, seed=seed)
    drop = paired_gain(original, changed, clusters, seed=seed)
    return Accuracies(
        change=change,
        group=group,
        questions=len(original),
        images=drop.images,
        original=float(original.mean()),
        original_low=before[0],
        original_high=before[1],
        changed=float(changed.mean()),
        changed_low=after[0],
        changed_high=after[1],
        drop=drop.mean,
        drop_low=drop.low,
        drop_high=drop.high,
    )
