"""The picture of the interchange interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptvis.diagnostics.drawing import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.interchange import InterchangeResult

__all__ = ["draw"]

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_HATCHES = ("", "..", "//")


def draw(result: InterchangeResult) -> Figure:
    """Probabilities after the last-token interchange, and flips after swaps of image tokens."""
    from adaptvis.diagnostics.interchange import ROLES

    figure, (top, bottom) = new_figure(2, 1, height=3.6)
    slots = range(len(result.last_token or []))
    for index, role in enumerate(ROLES):
        top.plot(
            slots,
            [row[index] for row in result.last_token or []],
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

    flips = result.flips or {}
    width = 0.8 / max(1, len(flips))
    for index, (region, shares) in enumerate(flips.items()):
        at = [layer + (index - (len(flips) - 1) / 2) * width for layer in range(len(shares))]
        values = [share.value or 0.0 for share in shares]
        below = [v - s.interval[0] for v, s in zip(values, shares, strict=True)]
        over = [s.interval[1] - v for v, s in zip(values, shares, strict=True)]
        bottom.bar(
            at,
            values,
            width * 0.92,
            yerr=[below, over],
            color=PALETTE[index + 1],
            hatch=_HATCHES[index % len(_HATCHES)],
            edgecolor="white",
            ecolor="black",
            capsize=2,
            error_kw={"linewidth": 0.9},
            label={"background": "strip without object"}.get(region, region),
        )
    remaining = result.ablation.value
    if remaining is not None:
        bottom.axhline(remaining, color="black", linestyle="--", label="ablated accuracy")
    layers = len(next(iter(flips.values()), []))
    _ticks(bottom, [f"layer {n}" for n in range(layers)])
    bottom.set(ylim=(0, 1.05), ylabel="share of answers", xlabel="swap of what enters")
    bottom.set_title("Image tokens swapped with the mirrored scene", loc="left", fontsize=10)
    bottom.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _ticks(axes: Any, labels: list[str]) -> None:
    step = max(1, -(-len(labels) // 10))
    axes.set_xticks(range(0, len(labels), step), labels[::step], fontsize=8)
