"""A task's own metrics with intervals, and their differences between methods.

A metric may join questions (the pairs of MMVP, the sets of WhatsUp), so its interval comes from
leaving out whole clusters of them (:mod:`adaptvis.evaluation.jackknife`). All methods leave out
the same questions, which pairs their differences.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import GROUPS, delete_groups, half_width
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import Metric, MetricGain
from adaptvis.tasks import Answered

__all__ = ["MetricFunction", "task_metrics"]

MetricFunction = Callable[[Sequence[Answered]], dict[str, float]]


def task_metrics(
    metric: MetricFunction,
    methods: Mapping[str, Sequence[Record]],
    comparisons: Sequence[tuple[str, str]],
    *,
    joined_by: str | None = None,
    seed: int = 0,
) -> tuple[list[Metric], list[MetricGain]]:
    """Metrics of every method on one task, and differences for each (method, reference).

    Args:
        methods: records by method, of the same questions in the same order; at least one.
        comparisons: pairs of method names.
        joined_by: the tag whose questions the metric joins, see
            :attr:`adaptvis.tasks.Task.joined_by`.
        seed: of the groups of clusters that are left out.
    """
    names = list(methods)
    first = methods[names[0]]
    model, task = first[0].model, first[0].task
    clusters = clusters_of(first, [record.image_id for record in first], joined_by)
    count = len(np.unique(clusters))
    whole = {name: metric(records) for name, records in methods.items()}
    keys = list(dict.fromkeys(key for values in whole.values() for key in values))
    without: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    if count > 1:
        for kept in delete_groups(clusters, GROUPS, seed=seed):
            for name, records in methods.items():
                without[name].append(metric([records[i] for i in kept]))

    def values(name: str, key: str) -> list[float]:
        return [found.get(key, math.nan) for found in without[name]]

    metrics, gains = [], []
    for name in names:
        for key in keys:
            value = whole[name].get(key, math.nan)
            if math.isfinite(value):
                half = half_width(values(name, key))
                low, high = max(0.0, value - half), min(1.0, value + half)
                metrics.append(Metric(model, task, name, key, value, low, high, count))
    for name, reference in comparisons:
        for key in keys:
            gain = whole[name].get(key, math.nan) - whole[reference].get(key, math.nan)
            if math.isfinite(gain):
                pairs = zip(values(name, key), values(reference, key), strict=True)
                half = half_width([ours - theirs for ours, theirs in pairs])
                low, high = max(-1.0, gain - half), min(1.0, gain + half)
                gains.append(MetricGain(model, task, name, reference, key, gain, low, high, count))
    return metrics, gains
