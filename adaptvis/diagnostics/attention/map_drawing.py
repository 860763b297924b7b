"""Attention drawn on the picture it looks at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.diagnostics.attention.drawing import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from adaptvis.diagnostics.attention.maps import AttentionMapsResult, ImageMap

__all__ = ["draw_maps", "paint"]

_SIDE = 224
"""Pixels along the longer side of a painted map."""


def paint(weights: Any, boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Weight per pixel, float64 [height, width]: every token spreads its weight over its box.

    Where a model sees the same pixels twice (tiles and a thumbnail), both add up. Tokens without a
    place are left out.

    Args:
        weights: [T]. boxes: [T, 4], fractions. size: (width, height) in pixels.
    """
    width, height = size
    painted = np.zeros((height, width))
    scale = np.array([width, height, width, height])
    for weight, box in zip(weights, boxes, strict=True):
        if np.isnan(box).any():
            continue
        left, top, right, bottom = np.rint(box * scale).astype(int)
        # A token thinner than a pixel still has its place.
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        painted[top:bottom, left:right] += weight / ((right - left) * (bottom - top))
    return painted


def draw_maps(result: AttentionMapsResult) -> Figure:
    """See :meth:`AttentionMapsResult.figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = result.columns
    count = 1 + len(columns)
    side = max(1.9, min(2.8, 8.4 / count))
    figure = Figure(
        figsize=(side * count, (side + 0.3) * len(result.examples)),
        layout="constrained",
        dpi=120,
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(result.examples), count, squeeze=False)
    for axes, example in zip(grid, result.examples, strict=True):
        _picture(axes[0], example, wrap=int(side * 12))
        _line(figure, axes[1:], example, columns)
    return figure


def _picture(axes: Any, example: ImageMap, wrap: int) -> None:
    axes.imshow(np.asarray(example.picture), extent=(0, 1, 1, 0), aspect=_aspect(example))
    _outline(axes, example, "black")
    _bare(axes, "\n".join(textwrap.wrap(example.prompt, wrap, max_lines=3)))


def _line(figure: Any, grid: Any, example: ImageMap, columns: Sequence[tuple[str, str]]) -> None:
    width, height = example.picture.size
    scale = _SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    painted = {key: paint(weights, example.boxes, size) for key, weights in example.maps.items()}
    largest = max((float(one.max()) for one in painted.values()), default=0.0) or 1.0
    grey = np.asarray(example.picture.convert("L"))
    for axes, key in zip(grid, columns, strict=True):
        if key not in painted:
            axes.set_axis_off()
            continue
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
        # Dark where nothing is looked at: brightness tells, also in grey.
        drawn = axes.imshow(
            painted[key] / largest,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.6,
            extent=(0, 1, 1, 0),
            aspect=_aspect(example),
            interpolation="nearest",
        )
        _outline(axes, example, "white")
        row, steering = key
        _bare(axes, f"{row}\n{steering}\n{100 * example.shares[key]:.0f} % on the image")
        if key == list(painted)[-1]:
            bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
            bar.set_ticks([0, 1], labels=["0", _share_of_token(example)])
            bar.ax.tick_params(labelsize=7)


def _share_of_token(example: ImageMap) -> str:
    """The brightest colour: the largest share of attention of one token, in any map of the line."""
    placed = ~np.isnan(example.boxes).any(axis=1)
    largest = max((float(w[placed].max(initial=0.0)) for w in example.maps.values()), default=0.0)
    return f"{100 * largest:.2g} %"


def _aspect(example: ImageMap) -> float:
    width, height = example.picture.size
    return height / width


def _outline(axes: Any, example: ImageMap, colour: str) -> None:
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in example.asked:
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, color=colour, linewidth=1.2
            )
        )


def _bare(axes: Any, title: str) -> None:
    axes.set_title(literal(title), fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
