"""A sweep and what was chosen from it, as terminal tables."""

from rich import box
from rich.table import Table
from rich.text import Text

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.evaluation.tables import points
from adaptvis.tuning.search import Layers, Sweep
from adaptvis.tuning.select import Selection

__all__ = ["choice_table", "sweep_table"]


def sweep_table(sweep: Sweep) -> Table:
    """Accuracy in per cent for every coefficient (columns) and selection of layers (rows)."""
    table = Table(
        title=Text("ScalingVis on the validation questions, accuracy in %", style="bold"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("layers")
    for alpha in sweep.grid.alphas:
        table.add_column(f"{alpha:g}", justify="right")
    accuracies = sweep.correct.mean(axis=2)
    for layers, row in zip(sweep.grid.layers, accuracies, strict=True):
        best = row.max()
        cells = [Text(f"{100 * a:.1f}", style="bold" if a == best else "") for a in row]
        table.add_row(_layers(layers), *cells)
    return table


def choice_table(selection: Selection) -> Table:
    """The chosen settings, their accuracy, and the out-of-fold gain of choosing so."""
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
    table.add_column("accuracy", justify="right")
    table.add_column("gain", justify="right")
    table.add_column("")
    table.add_row("baseline", "", f"{100 * selection.baseline_accuracy:.1f}", "", "")
    table.add_row(
        "scalingvis",
        _scaling(selection.scaling),
        f"{100 * selection.scaling_accuracy:.1f}",
        points(selection.scaling_gain),
        selection.scaling_gain.verdict + ("" if selection.steers else ": not kept"),
    )
    table.add_row(
        "adaptvis",
        _adaptvis(selection.adaptvis) if selection.adaptive else "as scalingvis",
        f"{100 * selection.adaptvis_accuracy:.1f}",
        points(selection.adaptvis_gain),
        selection.adaptvis_gain.verdict + ("" if selection.adaptive else ": not kept"),
    )
    return table


def _scaling(config: ScalingVis) -> str:
    if config.alpha == 1:
        return "alpha 1: no steering"
    return f"alpha {config.alpha:g}, layers {_layers(config.layers)}"


def _adaptvis(config: AdaptVis) -> str:
    return (
        f"alpha {config.alpha_low:g} below confidence {config.threshold:g}, else "
        f"{config.alpha_high:g}, layers {_layers(config.layers)}"
    )


def _layers(layers: Layers) -> str:
    if layers is None:
        return "all"
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))
