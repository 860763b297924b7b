"""The picture of the attention instrument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adaptvis.diagnostics.attention.parts import LAST_ROW
from adaptvis.diagnostics.drawing import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.attention.result import AttentionResult, RowMeans

__all__ = ["draw_attention", "heat_map", "layer_ticks", "literal"]

# Light to dark, so that the parts differ in grey; the image, the darkest, is what one looks for.
_PARTS = {"system": "#cfcfcf", "markup": "#f3f0d0", "text": "#56B4E9", "image": "#8a3800"}
_NAMES = {
    "system": "system prompt",
    "markup": "markup",
    "text": "user text",
    "image": "image",
}
_STYLES = ("-", "--")


def draw_attention(result: AttentionResult) -> Figure:
    """See :meth:`AttentionResult.figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steerings = result.steerings
    rows = len(steerings) + 1 + bool(result.overlap)
    figure = Figure(figsize=(8.4, 2.9 * rows), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2)
    of_last = [result.row(LAST_ROW, steering) for steering in steerings]
    for measure, column, title in (("entropy", 0, "entropy over the image"), ("cmb", 1, "CMB")):
        values = [means.heads[measure].value for means in of_last]
        for row, (means, value) in enumerate(zip(of_last, values, strict=True)):
            name = f"{title}, last prompt token"
            if len(steerings) > 1:
                name += f"\n{means.steering}"
            # Both are from 0 to 1: pictures of different models can be laid side by side.
            heat_map(figure, axes[row, column], value, name, (0.0, 1.0))
    _shares(axes[len(steerings), 0], result, of_last)
    _entropies(axes[len(steerings), 1], result)
    if result.overlap:
        _on_objects(axes[-1, 0], result)
        _curves(axes[-1, 1], result)
    return figure


def literal(text: str) -> str:
    """Text as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def heat_map(
    figure: Any,
    axes: Any,
    values: Any,
    title: str,
    limits: tuple[float, float],
    colours: str = "cividis",
) -> None:
    """Layers upwards, heads to the right; hatched where there is no value.

    The default colours grow lighter with the value, so that they can be read in grey.
    """
    axes.set_facecolor("#ffffff")
    axes.patch.set_hatch("////")
    axes.patch.set_edgecolor("#bbbbbb")
    drawn = axes.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        aspect="auto",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set_title(literal(title), fontsize=9)
    axes.set_xlabel("head", fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    layer_ticks(axes.xaxis, values.shape[1])
    layer_ticks(axes.yaxis, values.shape[0])
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.ax.tick_params(labelsize=8)


def layer_ticks(axis: Any, count: int) -> None:
    """Whole numbers from 0, at most nine of them."""
    step = max(1, -(-count // 8))
    axis.set_ticks(range(0, count, step))


def _frame(axes: Any, layers: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("layer", fontsize=8)
    axes.tick_params(labelsize=8)
    layer_ticks(axes.xaxis, layers)


def _shares(axes: Any, result: AttentionResult, of_last: list[RowMeans]) -> None:
    """Stacked bars per layer, steered ones beside them, and the part of the tokens at the left."""
    layers = len(of_last[0].layers["image"].value)
    width = 0.8 / len(of_last)
    for index, means in enumerate(of_last):
        shift = (index - (len(of_last) - 1) / 2) * width
        bottom = np.zeros(layers)
        for part, colour in _PARTS.items():
            values = 100 * means.layers[part].value
            axes.bar(
                np.arange(layers) + shift,
                values,
                width * 0.92,
                bottom=bottom,
                color=colour,
                edgecolor="white",
                linewidth=0.4,
                hatch="//" if index else None,
                label=None if index else _NAMES[part],
            )
            bottom += values
    below = 0.0
    for part, colour in _PARTS.items():
        axes.bar(-1.4, 100 * result.tokens[part], 0.8, bottom=below, color=colour)
        below += 100 * result.tokens[part]
    _frame(axes, layers)
    step = max(1, -(-layers // 8))
    ticks = list(range(0, layers, step))
    axes.set_xticks([-1.4, *ticks], ["tokens", *map(str, ticks)])
    axes.set_ylim(0, 100)
    axes.set_ylabel("attention (%)", fontsize=8)
    title = "attention of the last prompt token, by part"
    if len(of_last) > 1:
        title += f"\nhatched: {of_last[1].steering}"
    axes.set_title(literal(title), fontsize=9)
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _entropies(axes: Any, result: AttentionResult) -> None:
    rows = list(dict.fromkeys(means.row for means in result.means))
    for means in result.means:
        entropy = means.layers["entropy"]
        half = np.where(np.isfinite(entropy.half), entropy.half, 0)
        colour = PALETTE[rows.index(means.row) % len(PALETTE)]
        steered = means.steering != result.steerings[0]
        label = means.row + (f", {means.steering}" if steered else "")
        axes.errorbar(
            range(len(entropy.value)),
            entropy.value,
            yerr=half,
            color=colour,
            linestyle=_STYLES[steered],
            marker="osD^vP"[rows.index(means.row) % 6],
            markersize=3.5,
            linewidth=1.2,
            capsize=2,
            label=literal(label),
        )
    _frame(axes, len(result.means[0].layers["entropy"].value))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("normalised entropy", fontsize=8)
    axes.set_title("entropy over the image, mean over heads", fontsize=9)
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _on_objects(axes: Any, result: AttentionResult) -> None:
    for overlap in result.overlap:
        steered = overlap.steering != result.steerings[0]
        count = overlap.separation[0]
        for shift, kind, mean, colour, marker in (
            (-0.06, f"right ({count.right})", overlap.right, PALETTE[1], "o"),
            (0.06, f"wrong ({count.wrong})", overlap.wrong, PALETTE[2], "s"),
        ):
            half = np.where(np.isfinite(mean.half), mean.half, 0)
            # Side by side, so that intervals do not hide each other.
            axes.errorbar(
                np.arange(len(mean.value)) + shift + 0.03 * steered,
                100 * mean.value,
                yerr=100 * half,
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                capsize=2,
                linestyle=_STYLES[steered],
                label=literal(kind + (f", {overlap.steering}" if steered else "")),
            )
    if result.covered is not None:
        axes.axhline(100 * result.covered, color="#555555", linestyle=":", linewidth=1.2)
    _frame(axes, len(result.overlap[0].separation))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("of the image's attention (%)", fontsize=8)
    axes.set_title("attention on the asked objects, by answer", fontsize=9)
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _curves(axes: Any, result: AttentionResult) -> None:
    layers = len(result.overlap[0].separation)
    for index, overlap in enumerate(result.overlap):
        found = [(i, s) for i, s in enumerate(overlap.separation) if s.value is not None]
        if not found:
            continue
        values = np.array([s.value for _, s in found], dtype=float)
        below = values - np.array([s.low for _, s in found])
        above = np.array([s.high for _, s in found]) - values
        axes.errorbar(
            [i + 0.08 * index for i, _ in found],
            values,
            yerr=[below, above],
            color=PALETTE[0 if not index else 3],
            linestyle=_STYLES[bool(index)],
            marker="os"[bool(index)],
            markersize=3.5,
            linewidth=1.2,
            capsize=2,
            label=literal(overlap.steering),
        )
    axes.axhline(0.5, color="#555555", linestyle=":", linewidth=1.2)
    _frame(axes, layers)
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("AUROC", fontsize=8)
    axes.set_title("does it tell right from wrong answers?", fontsize=9)
    if all(s.value is None for overlap in result.overlap for s in overlap.separation):
        count = result.overlap[0].separation[0]
        missing = "wrong" if not count.wrong else "right"
        axes.text(
            0.5,
            0.25,
            f"no AUROC: there are no {missing} answers\n({count.right} right, {count.wrong} wrong)",
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=9,
        )
    elif len(result.overlap) > 1:
        axes.legend(
            fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False
        )
