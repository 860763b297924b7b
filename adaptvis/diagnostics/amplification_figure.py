"""The picture of an amplification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptvis.diagnostics.drawing import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.amplification import AmplificationResult

__all__ = ["draw"]


def draw(result: AmplificationResult) -> Figure:
    """Accuracy against alpha, of the probe and of random directions."""
    figure, axes = new_figure(height=3.8)
    probe, *controls = result.curves
    for number, curve in enumerate(controls):
        label = "random directions" if number == 0 else None
        found = [result.accuracy(curve, index) for index in range(len(result.alphas))]
        values = [value for value, _, _ in found]
        axes.plot(result.alphas, values, "--", color="#666666", linewidth=1.2, label=label)
        axes.fill_between(
            result.alphas,
            [low for _, low, _ in found],
            [high for _, _, high in found],
            color="#888888",
            alpha=0.15,
            linewidth=0,
        )
    estimates = [result.accuracy(probe, index) for index in range(len(result.alphas))]
    axes.plot(
        result.alphas,
        [value for value, _, _ in estimates],
        "o-",
        color=PALETTE[1],
        markersize=4,
        label="probe directions",
    )
    lows, highs = [low for _, low, _ in estimates], [high for _, _, high in estimates]
    axes.fill_between(result.alphas, lows, highs, color=PALETTE[1], alpha=0.18, linewidth=0)
    axes.axhline(estimates[0][0], color="black", linestyle=":", label="without amplification")
    if result.chance is not None:
        axes.axhline(result.chance, color="black", linestyle="-.", linewidth=0.8, label="chance")
    axes.set(xlabel="alpha", ylabel="strict accuracy", ylim=(0, 1.03))
    title = f"{result.settings.get('task', '')}: {len(result.images)} items"
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
