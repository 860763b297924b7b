"""A task's own metrics with intervals, and their differences between methods.

A metric may join questions (the pairs and sets of WhatsUp), so it cannot be resampled question by
question: whole clusters are drawn, and the metric is computed again on every draw. All methods
share the draws, which pairs their differences.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import Metric, MetricGain
from adaptvis.tasks import Answered

__all__ = ["GROUP", "MetricFunction", "task_metrics"]

MetricFunction = Callable[[Sequence[Answered]], dict[str, float]]

GROUP = "group"
"""The tag of questions that a metric joins; they are resampled together."""

_MOST_RESAMPLES, _FEWEST_RESAMPLES = 1000, 200
_RECORDS_READ = 10_000_000


def task_metrics(
    metric: MetricFunction,
    methods: Mapping[str, Sequence[Record]],
    comparisons: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
) -> tuple[list[Metric], list[MetricGain]]:
    """Metrics of every method on one task, and differences for each (method, reference).

    Args:
        methods: records by method, of the same questions in the same order; at least one.
        comparisons: pairs of method names.
    """
    names = list(methods)
    first = methods[names[0]]
    model, task = first[0].model, first[0].task
    clusters = _clusters(first)
    whole = {name: metric(records) for name, records in methods.items()}
    keys = list(dict.fromkeys(key for values in whole.values() for key in values))
    draws = _resampled(metric, methods, clusters, keys, seed)
    metrics, gains = [], []
    for name in names:
        for key in keys:
            value = whole[name].get(key, math.nan)
            if math.isfinite(value):
                low, high = _interval(draws[name][key], (0.0, 1.0))
                metrics.append(Metric(model, task, name, key, value, low, high, len(clusters)))
    for name, reference in comparisons:
        for key in keys:
            difference = whole[name].get(key, math.nan) - whole[reference].get(key, math.nan)
            if math.isfinite(difference):
                low, high = _interval(draws[name][key] - draws[reference][key], (-1.0, 1.0))
                gains.append(
                    MetricGain(
                        model, task, name, reference, key, difference, low, high, len(clusters)
                    )
                )
    return metrics, gains


def _clusters(records: Sequence[Record]) -> list[list[int]]:
    """Positions of the questions that are drawn together: groups, or else images."""
    found: dict[str, list[int]] = {}
    grouped = all(GROUP in record.tags for record in records)
    for index, record in enumerate(records):
        found.setdefault(record.tags[GROUP] if grouped else record.image_id, []).append(index)
    return list(found.values())


def _resampled(
    metric: MetricFunction,
    methods: Mapping[str, Sequence[Record]],
    clusters: Sequence[Sequence[int]],
    keys: Sequence[str],
    seed: int,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Each metric over the draws, `[resamples]`, by method and name; NaN where it was undefined."""
    resamples = 0
    if len(clusters) > 1:
        read = sum(len(records) for records in methods.values())
        resamples = min(_MOST_RESAMPLES, max(_FEWEST_RESAMPLES, _RECORDS_READ // read))
    draws = {name: {key: np.full(resamples, math.nan) for key in keys} for name in methods}
    generator = np.random.default_rng(seed)
    copies: dict[tuple[str, int, int], Record] = {}
    for number in range(resamples):
        drawn = _numbered(generator.integers(len(clusters), size=len(clusters)))
        for name, records in methods.items():
            sample = [
                _copy(records[i], name, i, copy, copies)
                for cluster, copy in drawn
                for i in clusters[cluster]
            ]
            for key, value in metric(sample).items():
                if key in draws[name]:
                    draws[name][key][number] = value
    return draws


def _numbered(chosen: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Each drawn cluster with how often it has been drawn before."""
    seen: dict[int, int] = {}
    drawn = []
    for cluster in chosen.tolist():
        drawn.append((cluster, seen.get(cluster, 0)))
        seen[cluster] = seen.get(cluster, 0) + 1
    return drawn


def _copy(
    record: Record, method: str, index: int, copy: int, copies: dict[tuple[str, int, int], Record]
) -> Record:
    """The record; drawn again, under a group of its own, which a metric must not join."""
    if copy == 0 or GROUP not in record.tags:
        return record
    key = (method, index, copy)
    if key not in copies:
        tags = {**record.tags, GROUP: f"{record.tags[GROUP]} #{copy}"}
        copies[key] = replace(record, id=f"{record.id} #{copy}", tags=tags)
    return copies[key]


def _interval(values: NDArray[np.float64], unknown: tuple[float, float]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return unknown
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
