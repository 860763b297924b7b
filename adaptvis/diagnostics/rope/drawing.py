"""The picture of the RoPE probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adaptvis.diagnostics.attention.drawing import heat_map
from adaptvis.diagnostics.wording import positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.rope.result import RopeResult

__all__ = ["draw_rope"]


def draw_rope(result: RopeResult) -> Figure:
    """See :meth:`RopeResult.figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, values, title in (
        (left, result.change.value, r"$\Delta\alpha_V$: image's share"),
        (middle, result.gradient.value, r"$\Delta g_V$: logits per position"),
    ):
        # The same distance from 0 either way, so that 0 has one shade, the lightest.
        largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        heat_map(figure, axes, values, "", (-largest, largest), "RdBu_r")
        axes.set_title(title, fontsize=9)
    _scatter(figure, right, result)
    return figure


def _scatter(figure: Any, axes: Any, result: RopeResult) -> None:
    predicted, measured = result.predicted.value, result.change.value
    layers = np.repeat(np.arange(len(measured)), measured.shape[1])
    low = float(min(predicted.min(), measured.min(), 0.0))
    high = float(max(predicted.max(), measured.max(), 0.0))
    margin = 0.06 * ((high - low) or 1.0)
    line = (low - margin, high + margin)
    axes.plot(line, line, color="#777777", linewidth=1, linestyle="--", zorder=1)
    drawn = axes.scatter(
        predicted.ravel(),
        measured.ravel(),
        c=layers,
        s=22,
        cmap="cividis",
        edgecolor="black",
        linewidth=0.4,
        zorder=2,
    )
    axes.set_xlim(line)
    axes.set_ylim(line)
    times = "" if result.steps == 1 else rf"\times {result.steps:g}"
    axes.set_xlabel(rf"predicted: $\alpha_V(1-\alpha_V)\,\Delta g_V{times}$", fontsize=8)
    axes.set_ylabel(r"measured $\Delta\alpha_V$", fontsize=8)
    of_small = result.judged_determination
    title = rf"theory at {positions(result.steps)}"
    if of_small is not None:
        title += f"\n(judged at {result.judged_steps:g}: $R^2$ = {of_small:.3f})"
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=4)
    axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label("layer", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.locator = _whole_numbers()
    bar.update_ticks()


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, nbins=6)
