"""Which pixels of the original image each image token sees.

A vision-language model never sees the image as given: it is padded, resized, cropped, cut into
tiles, and every token stands for one cell of a grid over the result. :class:`Canvas` follows the
image through those steps; the functions below lay the grid, carry each cell back to the pixels of
the original image and put the cells in the order of the placeholder tokens in ``input_ids``.

Everywhere ``token_boxes`` is a float64 tensor [num_image_tokens, 4] of (left, top, right, bottom)
in original pixels, clipped to the image. A row of NaN is a token without a place in the image: a
row separator, a class token, or a cell that lies wholly on padding. Boxes are geometric: what
attention or pooling inside the vision tower mixes in from elsewhere is not part of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptvis.config import Region
from adaptvis.errors import PromptError

__all__ = [
    "Canvas",
    "anyres_boxes",
    "cell_intervals",
    "grid_boxes",
    "interval_boxes",
    "no_place",
    "pool_intervals",
    "shrink_intervals",
    "tile_boxes",
    "tokens_in_region",
    "unpadded_slices",
]

# Boxes carry rounding errors of about 1e-12 pixels; an overlap thinner than this is not one.
_THINNEST_OVERLAP = 1e-6


@dataclass(frozen=True)
class Canvas:
    """A picture of ``width`` x ``height`` pixels and where the original image lies on it.

    ``canvas_x = image_x * scale_x + left`` and likewise for y. Canvases are values: each step
    returns a new one.
    """

    image_width: float
    image_height: float
    width: float
    height: float
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0

    @classmethod
    def of(cls, image_size: tuple[int, int]) -> Canvas:
        """The untouched image; ``image_size`` is (width, height) in pixels."""
        width, height = image_size
        return cls(width, height, width, height)

    def resized(self, width: float, height: float) -> Canvas:
        """The whole canvas stretched to ``width`` x ``height``."""
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            scale_x=self.scale_x * across,
            scale_y=self.scale_y * down,
            left=self.left * across,
            top=self.top * down,
        )

    def cropped(self, left: float, top: float, width: float, height: float) -> Canvas:
        """The part that starts at (``left``, ``top``); what reaches beyond the edges is padding."""
        return replace(self, width=width, height=height, left=self.left - left, top=self.top - top)

    def centred(self, width: float, height: float) -> Canvas:
        """A canvas of ``width`` x ``height`` with this one in its middle, padded or cropped.

        An odd pixel goes to the right and bottom of padding, and is cut off there when cropping.
        """

        def before(inner: float, outer: float) -> float:
            return -((outer - inner) // 2) if outer > inner else (inner - outer) // 2

        return self.cropped(before(self.width, width), before(self.height, height), width, height)


def cell_intervals(length: float, cell: float) -> Tensor:
    """Start and end of every whole cell along one axis: [length // cell, 2], in canvas pixels.

    A remainder at the end is left out, as a convolution without padding leaves it out.
    """
    starts = torch.arange(int(length // cell), dtype=torch.float64) * cell
    return torch.stack([starts, starts + cell], dim=-1)


def tile_intervals(tiles: int, tile: float, cell: float) -> Tensor:
    """Cells of a row of tiles, none of which crosses a tile's edge: [tiles * (tile // cell), 2]."""
    offsets = torch.arange(tiles, dtype=torch.float64) * tile
    return (offsets[:, None, None] + cell_intervals(tile, cell)).flatten(0, 1)


def shrink_intervals(intervals: Tensor, count: int) -> Tensor:
    """Join neighbouring cells into ``count`` equal shares, as scaling a feature map down does.

    ``intervals`` [n, 2] -> [count, 2]; a share may begin or end inside a cell.
    """
    total = len(intervals)
    edges = torch.arange(count + 1, dtype=torch.float64) * (total / max(count, 1))
    first = edges[:-1].floor().long().clamp(max=total - 1)
    last = (edges[1:].ceil().long() - 1).clamp(0, total - 1)
    length = intervals[:, 1] - intervals[:, 0]
    start = intervals[first, 0] + (edges[:-1] - first) * length[first]
    end = intervals[last, 0] + (edges[1:] - last) * length[last]
    return torch.stack([start, end], dim=-1)


def pool_intervals(intervals: Tensor, count: int) -> Tensor:
    """The ranges over which adaptive average pooling takes ``count`` means: whole cells.

    ``intervals`` [n, 2] -> [count, 2]. Neighbouring ranges share a cell where ``count`` does not
    divide n: from 24 to 16 they are the cells 0-1, 1-2, 3-4, 4-5 and so on.
    """
    total = len(intervals)
    first = torch.arange(count) * total // count
    last = -(-(torch.arange(count) + 1) * total // count) - 1
    return torch.stack([intervals[first, 0], intervals[last, 1]], dim=-1)


def interval_boxes(canvas: Canvas, down: Tensor, across: Tensor) -> Tensor:
    """Boxes of a grid from its row and column intervals on the canvas.

    ``down`` [rows, 2], ``across`` [columns, 2] -> [rows, columns, 4] in original pixels; NaN where
    a cell shows nothing of the image.
    """
    x = ((across - canvas.left) / canvas.scale_x).clamp(0.0, canvas.image_width)
    y = ((down - canvas.top) / canvas.scale_y).clamp(0.0, canvas.image_height)
    left, right = (edge.expand(len(y), len(x)) for edge in x.unbind(-1))
    top, bottom = (edge[:, None].expand(len(y), len(x)) for edge in y.unbind(-1))
    boxes = torch.stack([left, top, right, bottom], dim=-1)
    seen = (right - left > _THINNEST_OVERLAP) & (bottom - top > _THINNEST_OVERLAP)
    return boxes.masked_fill(~seen[..., None], torch.nan)


def grid_boxes(canvas: Canvas, cell: float) -> Tensor:
    """One grid of square cells over the canvas, row by row: [rows * columns, 4]."""
    down, across = cell_intervals(canvas.height, cell), cell_intervals(canvas.width, cell)
    return interval_boxes(canvas, down, across).flatten(0, 1)


def tile_boxes(
    canvas: Canvas, tile_rows: int, tile_columns: int, tile_size: tuple[float, float], cell: float
) -> Tensor:
    """Tiles cut from the canvas, row by row, each a grid of its own: [num_tokens, 4].

    ``tile_size`` is (width, height). Source of the order: InternVL and Idefics3 put all tokens of
    one tile before the next one's; a thumbnail, if any, is a further ``grid_boxes``.
    """
    width, height = tile_size
    tiles = [
        grid_boxes(canvas.cropped(column * width, row * height, width, height), cell)
        for row in range(tile_rows)
        for column in range(tile_columns)
    ]
    return torch.cat(tiles)


def unpadded_slices(rows: int, columns: int, image_size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a padded feature map that LLaVA-NeXT keeps.

    ``image_size`` is (width, height). The arithmetic, rounding included, is that of
    ``unpad_image`` in transformers, because the number of tokens hangs on it.
    """
    width, height = image_size
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        padding = (rows - kept) // 2
        return slice(padding, rows - padding), slice(0, columns)
    kept = int(round(width * (rows / height), 7))
    padding = (columns - kept) // 2
    return slice(0, rows), slice(padding, columns - padding)


def anyres_boxes(
    canvas: Canvas, tile: int, cell: float, image_size: tuple[int, int], max_tiles: int | None
) -> Tensor:
    """The tiles of LLaVA-NeXT and LLaVA-OneVision, joined to one map: [num_tokens, 4].

    ``canvas`` is the padded image, a multiple of ``tile`` pixels wide and high. Rows and columns
    of padding are dropped; with ``max_tiles`` (OneVision) a larger map is scaled down, and a box
    is then the token's equal share of the map, though bilinear scaling also looks at neighbours.
    Each row ends in a newline token, NaN here. The base image, which comes first in the prompt,
    is a separate ``grid_boxes``. Source: ``pack_image_features`` of either model.
    """
    down = tile_intervals(int(canvas.height // tile), tile, cell)
    across = tile_intervals(int(canvas.width // tile), tile, cell)
    kept_rows, kept_columns = unpadded_slices(len(down), len(across), image_size)
    down, across = down[kept_rows], across[kept_columns]
    if max_tiles is not None:
        per_side = int(tile // cell)
        ratio = math.sqrt(len(down) * len(across) / (max_tiles * per_side**2))
        if ratio > 1.1:
            down = shrink_intervals(down, int(len(down) // ratio))
            across = shrink_intervals(across, int(len(across) // ratio))
    boxes = interval_boxes(canvas, down, across)
    newlines = no_place(len(down))[:, None]
    return torch.cat([boxes, newlines], dim=1).flatten(0, 1)


def no_place(count: int) -> Tensor:
    """Rows for tokens that stand nowhere in the image: NaN [count, 4]."""
    return torch.full((count, 4), torch.nan, dtype=torch.float64)


def tokens_in_region(token_boxes: Tensor, region: Region) -> Tensor:
    """Select the image tokens under a pixel box: bool [num_image_tokens].

    A token counts if its box and the region overlap in a positive area, however small; touching
    edges do not count. Where the model sees the same pixels twice (a base image or thumbnail
    beside the tiles) the tokens of both count. Tokens without a place never do.

    Args:
        token_boxes: [num_image_tokens, 4], one row per placeholder token of the region's image.
        region: the box; its ``image_size`` is the one that ``token_boxes`` were computed for.

    Raises:
        PromptError: no token lies under the region, for example because that part of the image is
            cropped away before the model sees it.
    """
    left, top, right, bottom = token_boxes.unbind(-1)
    region_left, region_top, region_right, region_bottom = region.box
    across = right.clamp(max=region_right) - left.clamp(min=region_left)
    down = bottom.clamp(max=region_bottom) - top.clamp(min=region_top)
    # Comparisons with NaN are false, which drops the tokens without a place.
    inside = (across > _THINNEST_OVERLAP) & (down > _THINNEST_OVERLAP)
    if not inside.any():
        raise PromptError(
            f"No image token lies under the region {region.box}: {_visible(token_boxes)}; choose a "
            "box that reaches into it, or change the image processor's crop"
        )
    return inside


def _visible(token_boxes: Tensor) -> str:
    placed = token_boxes[~token_boxes.isnan().any(-1)]
    if not len(placed):
        return "none of the tokens has a place in the image"
    corners = [*placed[:, :2].amin(0).tolist(), *placed[:, 2:].amax(0).tolist()]
    return f"the model sees only the part ({', '.join(f'{edge:g}' for edge in corners)})"
