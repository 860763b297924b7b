"""The picture of the probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptvis.diagnostics.drawing import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.probes import ProbesResult

__all__ = ["draw"]


def draw(result: ProbesResult) -> Figure:
    """Accuracy of every series per axis, with intervals and chance."""
    figure, axes = new_figure(height=3.6)
    from adaptvis.diagnostics.probes import SERIES

    width = 0.84 / len(SERIES)
    names = list(dict.fromkeys(probe.axis for probe in result.probes))
    for index, (series, hatch) in enumerate(zip(SERIES, ("", "..", "//"), strict=True)):
        probes = [probe for probe in result.probes if probe.series == series]
        at = [place + (index - 1) * width for place in range(len(probes))]
        axes.bar(
            at,
            [p.accuracy for p in probes],
            width * 0.94,
            yerr=[[p.accuracy - p.low for p in probes], [p.high - p.accuracy for p in probes]],
            color=PALETTE[index + 1],
            hatch=hatch,
            edgecolor="white",
            ecolor="black",
            capsize=3,
            label=series,
        )
        for x, probe in zip(at, probes, strict=True):
            text = f"{100 * probe.accuracy:.0f} %"
            axes.annotate(
                text,
                (x, probe.high),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axes.axhline(1 / 3, color="black", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1.12), ylabel="accuracy, unseen pictures")
    axes.set_title("Place of an object's token: first, middle or last", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
