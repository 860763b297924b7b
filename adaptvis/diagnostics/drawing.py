"""One look for all pictures: sizes, and colours that differ in grey and to any eyes."""

from __future__ import annotations

from typing import Any

__all__ = ["COLOURS", "PALETTE", "new_figure", "plain_label", "plain_numbers"]

# Okabe and Ito (2008).
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

COLOURS = {
    "image tokens": "#D55E00",
    "prompt text": "#0072B2",
    "embedding table": "#000000",
    "last prompt token": "#009E73",
}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 8.4, height: float = 3.4
) -> tuple[Any, Any]:
    """A figure of about 1000 pixels and its axes, drawn without a display.

    Axes are what ``Figure.subplots`` returns: one, or an array of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing global is left behind in the user's process.
    figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns)
    for one in [axes] if rows == columns == 1 else axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#dddddd", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def plain_label(text: str, longest: int = 40) -> str:
    """Text from data as a label: one line, not too long, no formula."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line.replace("$", r"\$")


def plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, also between powers of ten where few fit."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.4)))
