"""What the report's template shows of one model on one task: rows of tables, and charts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from adaptvis.config import AdaptVis, SteeringConfig
from adaptvis.evaluation.report.charts import (
    AlphaPoint,
    accuracy_against_alpha,
    accuracy_bars,
    alpha_shares,
    reliability_diagram,
)
from adaptvis.evaluation.results import (
    Accuracy,
    Branch,
    Calibration,
    LeftOut,
    Metric,
    MetricGain,
    PairedGain,
    Summary,
    Torn,
)

__all__ = ["BranchRow", "Chart", "MethodRow", "PairView", "pair_view"]

_GROUPINGS = {"category": "category", "relation": "relation", "prior": "language prior"}
_MOST_GROUPS = 40


@dataclass(frozen=True)
class Chart:
    """A picture with its heading, and a sentence on how to read it."""

    title: str
    svg: Markup
    caption: str
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodRow:
    """One method over all questions, with its gain over the first."""

    index: int
    accuracy: Accuracy
    gain: PairedGain | None
    calibration: Calibration | None


@dataclass(frozen=True)
class MetricRow:
    """One metric: for each method its value, and its gain over the first."""

    name: str
    cells: tuple[tuple[Metric | None, MetricGain | None], ...]


@dataclass(frozen=True)
class BranchRow:
    """A branch with when it is taken, in words."""

    branch: Branch
    when: str


@dataclass(frozen=True)
class PairView:
    """One model on one task. anchor: its place in the page."""

    anchor: str
    model: str
    task: str
    methods: tuple[str, ...]
    questions: int
    rows: tuple[MethodRow, ...]
    gains: tuple[PairedGain, ...]
    metrics: tuple[MetricRow, ...]
    branches: tuple[BranchRow, ...]
    charts: tuple[Chart, ...]
    left_out: tuple[LeftOut, ...]
    torn: tuple[Torn, ...]
    groups: tuple[tuple[str, tuple[tuple[Accuracy, ...], ...]], ...] = field(default=())


def pair_view(
    summary: Summary,
    model: str,
    task: str,
    anchor: str,
    configs: Mapping[str, SteeringConfig | None],
) -> PairView:
    """Collect everything the report shows of a model on a task.

    Args:
        configs: of the model's methods, where known.
    """
    methods = tuple(summary.methods(model, task))
    whole = summary.accuracies_of(model, task, "all")
    over_first = {g.method: g for g in summary.gains_of(model, task) if g.reference == methods[0]}
    calibrations = {c.method: c for c in summary.calibrations_of(model, task)}
    groups = [
        (name, by_group)
        for grouping, name in _GROUPINGS.items()
        if len(by_group := _by_group(summary.accuracies_of(model, task, grouping))) > 1
    ]
    return PairView(
        anchor=anchor,
        model=model,
        task=task,
        methods=methods,
        questions=whole[0].questions,
        rows=tuple(
            MethodRow(i, a, over_first.get(a.method), calibrations.get(a.method))
            for i, a in enumerate(whole)
        ),
        gains=tuple(summary.gains_of(model, task)),
        metrics=_metrics(summary, model, task, methods),
        branches=tuple(
            BranchRow(b, _when(b, configs.get(b.method)))
            for b in summary.branches_of(model, task)
            if b.method != methods[0] or b.alpha != 1
        ),
        charts=tuple(_charts(summary, model, task, methods, groups, configs)),
        left_out=tuple(i for i in summary.left_out if (i.model, i.task) == (model, task)),
        torn=tuple(t for t in summary.torn if (t.model, t.task) == (model, task)),
        groups=tuple(groups),
    )


def _by_group(accuracies: Sequence[Accuracy]) -> tuple[tuple[Accuracy, ...], ...]:
    groups: dict[str, list[Accuracy]] = {}
    for accuracy in accuracies:
        groups.setdefault(accuracy.group, []).append(accuracy)
    return tuple(tuple(members) for members in groups.values())


def _metrics(
    summary: Summary, model: str, task: str, methods: Sequence[str]
) -> tuple[MetricRow, ...]:
    values = {(m.name, m.method): m for m in summary.metrics_of(model, task)}
    gains = {
        (g.name, g.method): g
        for g in summary.metric_gains_of(model, task)
        if g.reference == methods[0]
    }
    return tuple(
        MetricRow(name, tuple((values.get((name, m)), gains.get((name, m))) for m in methods))
        for name in dict.fromkeys(name for name, _ in values)
    )


def _charts(
    summary: Summary,
    model: str,
    task: str,
    methods: Sequence[str],
    groups: Sequence[tuple[str, tuple[tuple[Accuracy, ...], ...]]],
    configs: Mapping[str, SteeringConfig | None],
) -> list[Chart]:
    charts = []
    for name, by_group in groups:
        shown = [accuracy for members in by_group[:_MOST_GROUPS] for accuracy in members]
        caption = "Bars are accuracies, lines their 95 % intervals."
        if len(by_group) > _MOST_GROUPS:
            caption += f" The first {_MOST_GROUPS} of {len(by_group)} are shown."
        charts.append(Chart(f"Accuracy by {name}", accuracy_bars(shown, methods, name), caption))
    steered = [m for m in methods if m != methods[0]] or list(methods)
    branches = [b for b in summary.branches_of(model, task) if b.method in steered]
    charts.append(
        Chart(
            "Coefficients and branches",
            alpha_shares(branches, steered),
            "Which share of the questions was answered with which coefficient alpha.",
        )
    )
    if series := _alpha_series(summary, model, task, methods, configs):
        charts.append(
            Chart(
                "Accuracy against alpha",
                accuracy_against_alpha(list(series.values())),
                "ScalingVis with a constant coefficient; lines are 95 % intervals.",
                tuple(series) if len(series) > 1 else (),
            )
        )
    if calibrations := summary.calibrations_of(model, task):
        charts.append(
            Chart(
                "Calibration",
                reliability_diagram(calibrations, methods),
                "Accuracy of each method against the model's confidence before steering, in ten "
                "bins; the dashed line is perfect calibration. Below, questions per bin; bins of "
                "fewer than ten questions are not drawn where others hold more.",
            )
        )
    return charts


def _alpha_series(
    summary: Summary,
    model: str,
    task: str,
    methods: Sequence[str],
    configs: Mapping[str, SteeringConfig | None],
) -> dict[str, list[AlphaPoint]]:
    """Points of ScalingVis methods that differ in alpha only, by what they share."""
    points = {
        a.method: (a.accuracy, a.low, a.high) for a in summary.accuracies_of(model, task, "all")
    }
    series: dict[str, dict[float, AlphaPoint]] = {}
    for method in methods:
        values = config.to_dict() if (config := configs.get(method)) else {}
        if values.pop("method", None) != "scalingvis":
            continue
        alpha = float(values.pop("alpha"))
        shared = ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())
        series.setdefault(shared, {})[alpha] = AlphaPoint(alpha, *points[method])
    unsteered = [m for m in methods if m in configs and configs[m] is None]
    found = {}
    for shared, of in series.items():
        if len(of) > 1:
            for method in unsteered[:1]:
                of.setdefault(1.0, AlphaPoint(1.0, *points[method]))
            found[shared] = list(of.values())
    return found


def _when(branch: Branch, config: Any) -> str:
    if not branch.applied:
        return "not steered"
    if not isinstance(config, AdaptVis):
        return "every question"
    if config.alpha_low == config.alpha_high:
        return "either side of the threshold"
    sign = "<" if branch.alpha == config.alpha_low else "≥"
    if config.compared == "rounded_logit":
        return f"largest logit, rounded, {sign} {config.threshold:g}"
    rounded = ", rounded," if config.compared else ""
    return f"confidence{rounded} {sign} {100 * config.threshold:g} %"
