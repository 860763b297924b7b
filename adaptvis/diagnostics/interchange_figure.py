"""The picture of the interchange interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptvis.diagnostics.drawing import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.interchange import InterchangeResult
    from adaptvis.diagnostics.share import Share

__all__ = ["draw"]

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_HATCHES = ("", "..", "//")


def draw(result: InterchangeResult) -> Figure:
    """Probabilities after the last-token interchange, and flips after swaps of image tokens."""
    from adaptvis.diagnostics.interchange import ROLES

    figure, (top, bottom, axes, accuracy) = new_figure(4, 1, height=2.8)
    slots = range(len(result.last_token))
    for index, role in enumerate(ROLES):
        top.plot(
            slots,
            [row[index] for row in result.last_token],
            _LINES[index],
            marker=_MARKERS[index],
            markersize=5,
            color=PALETTE[index],
            label=role,
        )
    _ticks(top, ["input", *(f"layer {n}" for n in range(len(slots) - 1))])
    top.set(ylim=(-0.03, 1.03), ylabel="mean probability", xlabel="replaced behind")
    top.set_title("Last token from the counterfactual", loc="left", fontsize=10)
    top.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    _bars(
        bottom,
        [
            (
                {"background": "strip without object"}.get(region, region),
                shares,
                PALETTE[index + 1],
                _HATCHES[index % 3],
            )
            for index, (region, shares) in enumerate(result.flips.items())
        ],
    )
    layers = [f"layer {n}" for n in range(len(next(iter(result.flips.values()))))]
    _ticks(bottom, layers)
    bottom.set(ylim=(0, 1.05), ylabel="flips, of right answers", xlabel="swap of what enters")
    bottom.set_title("Image tokens swapped with the mirrored scene", loc="left", fontsize=10)

    # A mean over axes would hide that a model keeps the order of rows and columns differently.
    _bars(
        axes,
        [
            (
                f"{region}, {axis}",
                tables[region],
                PALETTE[1 if region == "object" else 3],
                "" if axis == "horizontal" else "//",
            )
            for region in ("object", "strip")
            for axis, tables in result.by_axis.items()
            if region in tables
        ],
    )
    _ticks(axes, layers)
    axes.set(ylim=(0, 1.05), ylabel="flips, of right answers", xlabel="swap of what enters")
    axes.set_title("The same, things in a row and in a column", loc="left", fontsize=10)

    for place, (share, colour) in enumerate(
        ((result.accuracy, PALETTE[0]), (result.ablation, PALETTE[4]))
    ):
        value = share.value or 0.0
        low, high = share.interval
        accuracy.errorbar(
            [value],
            [1 - place],
            xerr=[[value - low], [high - value]],
            fmt="o",
            color=colour,
            capsize=3,
        )
    accuracy.axvline(result.chance, color="black", linestyle=":", linewidth=1, label="chance")
    accuracy.set_yticks([1, 0], ["encoder as it is", "without its places"], fontsize=8)
    accuracy.set(ylim=(-0.6, 1.6), xlim=(0, 1.02), xlabel="accuracy")
    accuracy.set_title("Vision-side ablation", loc="left", fontsize=10)
    accuracy.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _bars(axes: Any, series: list[tuple[str, list[Share], str, str]]) -> None:
    """Shares by layer with intervals, side by side."""
    width = 0.8 / max(1, len(series))
    for index, (label, shares, colour, hatch) in enumerate(series):
        at = [layer + (index - (len(series) - 1) / 2) * width for layer in range(len(shares))]
        values = [share.value or 0.0 for share in shares]
        below = [v - s.interval[0] for v, s in zip(values, shares, strict=True)]
        over = [s.interval[1] - v for v, s in zip(values, shares, strict=True)]
        axes.bar(
            at,
            values,
            width * 0.92,
            yerr=[below, over],
            color=colour,
            hatch=hatch,
            edgecolor="white",
            ecolor="black",
            capsize=2,
            error_kw={"linewidth": 0.9},
            label=label,
        )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _ticks(axes: Any, labels: list[str]) -> None:
    step = max(1, -(-len(labels) // 10))
    axes.set_xticks(range(0, len(labels), step), labels[::step], fontsize=8)
