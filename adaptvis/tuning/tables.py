"""A sweep, what was chosen from it and what that gains, as terminal tables."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.evaluation.tables import plain, points
from adaptvis.tuning.candidates import Candidate
from adaptvis.tuning.grid import Layers
from adaptvis.tuning.held_out import HeldOut
from adaptvis.tuning.objective import Accuracy, Metric
from adaptvis.tuning.select import Selection
from adaptvis.tuning.sweep import Sweep

__all__ = ["choice_table", "held_out_table", "layers_label", "sweep_table"]


def sweep_table(sweep: Sweep, objective: Accuracy | Metric) -> Table:
    """The objective in per cent for every coefficient (columns) and selection of layers (rows)."""
    table = Table(
        title=Text.assemble(
            ("ScalingVis, ", "bold"),
            plain(objective.name),
            (" in %", "bold"),
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("layers")
    for alpha in sweep.grid.alphas:
        table.add_column(f"{alpha:g}", justify="right")
    every = np.arange(len(sweep.images))
    for s, layers in enumerate(sweep.grid.layers):
        row = [
            objective.value(every, Candidate(s, a, a).given(sweep, every))
            for a in range(len(sweep.grid.alphas))
        ]
        cells = [Text(f"{100 * a:.1f}", style="bold" if a == max(row) else "") for a in row]
        table.add_row(layers_label(layers), *cells)
    return table


def choice_table(selection: Selection) -> Table:
    """The chosen settings, their value, and the out-of-fold gain of choosing so."""
    table = Table(
        title=Text("Chosen", style="bold"),
        caption=(
            f"{selection.questions} questions; gain of choosing so, in points, out of fold, over "
            "the kept line above"
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for header in ("method", "setting"):
        table.add_column(header)
    table.add_column(plain(selection.objective, 24), justify="right")
    table.add_column("gain", justify="right")
    table.add_column("")
    table.add_row("baseline", "", f"{100 * selection.baseline:.1f}", "", "")
    table.add_row(
        "scalingvis",
        _scaling(selection.scaling),
        f"{100 * selection.scaling_value:.1f}",
        points(selection.scaling_gain),
        selection.scaling_gain.verdict + ("" if selection.steers else ": not kept"),
    )
    table.add_row(
        "adaptvis",
        _adaptvis(selection.adaptvis) if selection.adaptive else "as scalingvis",
        f"{100 * selection.adaptvis_value:.1f}",
        *_adaptvis_gain(selection),
    )
    return table


def held_out_table(tested: Sequence[HeldOut]) -> Table:
    """Both settings against the baseline on questions that had no part in the choice."""
    first = tested[0]
    table = Table(
        title=Text(f"On the test part, {first.questions} questions", style="bold"),
        caption="paired gain over the baseline in points, 95 % interval",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column("accuracy", justify="right")
    metric = first.objective != "accuracy"
    if metric:
        table.add_column(plain(first.objective, 24), justify="right")
    table.add_column("gain", justify="right")
    table.add_column("")
    for line in tested:
        cells = [f"{100 * line.accuracy:.1f}"]
        if metric:
            cells.append("-" if line.value is None else f"{100 * line.value:.1f}")
        gain = (points(line.gain), line.gain.verdict) if line.gain else ("", "")
        table.add_row(plain(line.method), *cells, *gain)
    return table


def _adaptvis_gain(selection: Selection) -> tuple[str, str]:
    gain = selection.adaptvis_gain
    if gain is None:
        return "", "no threshold"
    return points(gain), gain.verdict + ("" if selection.adaptive else ": not kept")


def _scaling(config: ScalingVis) -> str:
    if config.alpha == 1:
        return "alpha 1: no steering"
    return f"alpha {config.alpha:g}, layers {layers_label(config.layers)}"


def _adaptvis(config: AdaptVis) -> str:
    return (
        f"alpha {config.alpha_low:g} below confidence {config.threshold:g}, else "
        f"{config.alpha_high:g}, layers {layers_label(config.layers)}"
    )


def layers_label(layers: Layers) -> str:
    """Such as all, 1-3 or 0,2."""
    if layers is None:
        return "all"
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))
