"""The picture of a search: where it is good, how sharp the optimum is, what confidence tells."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.evaluation.output import write_atomically
from adaptvis.tuning.candidates import Candidate
from adaptvis.tuning.cuts import Cuts
from adaptvis.tuning.objective import Accuracy, Metric
from adaptvis.tuning.select import Selection
from adaptvis.tuning.sweep import Sweep
from adaptvis.tuning.tables import layers_label

__all__ = ["plot_search"]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
_MOST_THRESHOLDS = 200
_MOST_NUMBERS = 16
_CROWDED = 0.95
_LAST_NINE = 1e-7


def plot_search(
    sweep: Sweep, selection: Selection, objective: Accuracy | Metric, path: Path, title: str = ""
) -> None:
    """Write a PNG of four panels; two of them are empty where there was no threshold to choose.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing global is left behind in the user's process.
    selections, alphas = sweep.grid.shape
    width = 4.5 + max(6.5, 2.0 + 0.62 * alphas)
    heights = (max(1.7, 1.1 + 0.34 * selections), max(3.4, 1.3 + 0.34 * alphas))
    figure = Figure(figsize=(width, 0.8 + sum(heights)), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(width - 4.8, 4.8))
    left, right = halves
    maps = left.subplots(2, 1, height_ratios=heights)
    curves = right.subplots(2, 1)
    _surface(maps[0], sweep, selection, objective)
    if selection.chosen is None:
        for axes in (maps[1], curves[0]):
            axes.set_axis_off()
            axes.set_title("AdaptVis: no threshold to choose", fontsize=10)
    else:
        _pairs(maps[1], sweep, selection.chosen, objective)
        _threshold_curve(curves[0], sweep, selection, selection.chosen, objective)
    _confidences(curves[1], sweep, selection)
    figure.suptitle(
        _label(f"{title}\n" if title else "") + f"{selection.questions} validation questions",
        fontsize=11,
    )
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def _surface(axes: Any, sweep: Sweep, selection: Selection, objective: Accuracy | Metric) -> None:
    every = np.arange(len(sweep.images))
    grid = sweep.grid
    values = np.empty(grid.shape)
    for s, a in np.ndindex(grid.shape):
        values[s, a] = objective.value(every, Candidate(s, a, a).given(sweep, every))
    _heat(axes, values, [f"{a:g}" for a in grid.alphas], [layers_label(s) for s in grid.layers])
    axes.set_xlabel("alpha")
    axes.set_ylabel("layers")
    axes.set_title(_label(f"ScalingVis: {objective.name} (%)"), fontsize=10)
    scaling = selection.scaling
    _mark(axes, (grid.alphas.index(scaling.alpha), grid.layers.index(scaling.layers)))


def _pairs(axes: Any, sweep: Sweep, chosen: Candidate, objective: Accuracy | Metric) -> None:
    every = np.arange(len(sweep.images))
    alphas = sweep.grid.alphas
    values = np.empty((len(alphas), len(alphas)))
    for low, high in np.ndindex(values.shape):
        candidate = Candidate(chosen.selection, low, high, chosen.threshold)
        values[low, high] = objective.value(every, candidate.given(sweep, every))
    names = [f"{a:g}" for a in alphas]
    _heat(axes, values, names, names)
    axes.set_xlabel("alpha_high (confident)")
    axes.set_ylabel("alpha_low (unsure)")
    axes.set_title(
        _label(
            f"AdaptVis below/above confidence {chosen.threshold:g}: {objective.name} (%)\n"
            f"layers {layers_label(sweep.grid.layers[chosen.selection])}"
        ),
        fontsize=10,
    )
    _mark(axes, (chosen.high, chosen.low))


def _heat(axes: Any, values: NDArray[np.float64], columns: list[str], rows: list[str]) -> None:
    percent = 100 * values
    picture = axes.imshow(percent, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), [_label(r) for r in rows], fontsize=8)
    if len(columns) > _MOST_NUMBERS:
        axes.figure.colorbar(picture, ax=axes)
        axes.tick_params(axis="x", rotation=90)
        return
    bright = percent.min() + 0.6 * (percent.max() - percent.min())
    for row, column in np.ndindex(percent.shape):
        axes.text(
            column,
            row,
            f"{percent[row, column]:.1f}",
            ha="center",
            va="center",
            fontsize=7,
            color="black" if percent[row, column] > bright else "white",
        )


def _mark(axes: Any, place: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    corner = (place[0] - 0.5, place[1] - 0.5)
    axes.add_patch(
        Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2, zorder=3, clip_on=False)
    )


def _threshold_curve(
    axes: Any,
    sweep: Sweep,
    selection: Selection,
    chosen: Candidate,
    objective: Accuracy | Metric,
) -> None:
    every = np.arange(len(sweep.images))
    cuts = Cuts.of(sweep.confidence)
    alphas = sweep.grid.alphas
    shown = np.unique(np.linspace(0, len(cuts.below) - 1, _MOST_THRESHOLDS).astype(int))
    thresholds = [cuts.threshold(int(cut)) for cut in shown]
    values = [
        objective.value(
            every, Candidate(chosen.selection, chosen.low, chosen.high, t).given(sweep, every)
        )
        for t in thresholds
    ]
    pair = f"alpha {alphas[chosen.low]:g} below, {alphas[chosen.high]:g} from there on"
    axes.plot(thresholds, 100 * np.array(values), color=_BLUE, linewidth=1.3, label=pair)
    axes.axhline(100 * selection.baseline, color=_GREY, linestyle=":", label="no steering")
    if selection.steers:
        text = f"ScalingVis, alpha {selection.scaling.alpha:g}"
        axes.axhline(100 * selection.scaling_value, color=_GREEN, linestyle="--", label=text)
    axes.axvline(chosen.threshold, color="red", linewidth=1)
    axes.set_xlabel("threshold of the confidence")
    axes.set_ylabel(_label(f"{objective.name} (%)"))
    kept = "" if selection.adaptive else " (not kept)"
    axes.set_title(f"AdaptVis against its threshold{kept}", fontsize=10)
    # A flat curve would be blown up, to above 100 %.
    lines = 100 * np.array([*values, selection.baseline, selection.scaling_value])
    height = 1.2 * max(2.0, float(np.ptp(lines)))
    top = min(float(lines.min() + lines.max() + height) / 2, 100.2)
    axes.set_ylim(top - height, top)
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    _confidence_axis(axes, sweep.confidence)


def _confidences(axes: Any, sweep: Sweep, selection: Selection) -> None:
    right = sweep.points[0, sweep.grid.neutral] >= 0.5
    bins = _confidence_axis(axes, sweep.confidence)
    for chosen, colour, name in ((right, _BLUE, "right"), (~right, _ORANGE, "wrong")):
        axes.hist(
            np.minimum(sweep.confidence[chosen], bins[-1]),
            bins=bins,
            color=colour,
            alpha=0.55,
            label=f"{name} ({int(chosen.sum())})",
        )
    if selection.chosen is not None:
        threshold = selection.chosen.threshold
        below = float((sweep.confidence < threshold).mean())
        axes.axvline(threshold, color="red", linewidth=1, label=f"threshold: {below:.0%} below")
    axes.set_xlabel("confidence of the first token, unsteered")
    axes.set_ylabel("questions")
    axes.set_title("Confidence of right and wrong answers, unsteered", fontsize=10)
    # Room for the legend.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")


def _confidence_axis(axes: Any, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Set the axis up; returns edges of bins. Confidences close to 1 are pulled apart."""
    lowest = float(confidence.min())
    if np.median(confidence) < _CROWDED:
        bins = np.linspace(lowest, 1.0, 31)
    else:

        def nines(values: Any) -> Any:
            return -np.log10(np.maximum(1 - np.asarray(values), _LAST_NINE))

        def back(values: Any) -> Any:
            return 1 - 10.0 ** -np.asarray(values)

        # Equal confidences need some width, too.
        first = min(float(nines(lowest)), -np.log10(_LAST_NINE) - 0.5)
        highest = max(float(nines(np.quantile(confidence, 0.995))), first + 0.5)
        axes.set_xscale("function", functions=(nines, back))
        ticks = [t for t in (0.5, 0.8, 0.9, 0.97, 0.99) if t >= lowest]
        ticks += [float(t) for t in back(np.arange(3, 1 + int(highest)))]
        axes.set_xticks(ticks, [f"{t:.7g}" for t in ticks], fontsize=8)
        axes.minorticks_off()
        bins = back(np.linspace(first, highest, 31))
    axes.set_xlim(bins[0], bins[-1])
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return bins


def _label(text: str) -> str:
    """Text as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")
