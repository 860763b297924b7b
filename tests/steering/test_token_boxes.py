"""The geometry on its own: properties that hold for any image, crop, tiling and region."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptvis.config import Region
from adaptvis.errors import PromptError
from adaptvis.steering.token_boxes import (
    Canvas,
    anyres_boxes,
    cell_intervals,
    grid_boxes,
    no_place,
    pool_intervals,
    shrink_intervals,
    tile_boxes,
    tokens_in_region,
    unpadded_slices,
)

patient = settings(deadline=None)  # a busy machine is no failure

sides = st.integers(1, 900)
sizes = st.tuples(sides, sides)
cells = st.integers(2, 20)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def shared_area(boxes: Tensor) -> float:
    """Largest area that two different boxes share."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return float(shared.fill_diagonal_(0.0).max())


@st.composite
def regions(draw: st.DrawFn, size: tuple[int, int]) -> Region:
    width, height = size
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return Region(box=(left, top, right, bottom), image_size=size)


@patient
@given(size=sizes, grid=grids, cell=cells)
def test_a_stretched_grid_tiles_the_whole_image(
    size: tuple[int, int], grid: tuple[int, int], cell: int
) -> None:
    columns, rows = grid
    boxes = grid_boxes(Canvas.of(size).resized(columns * cell, rows * cell), cell)
    assert boxes.shape == (rows * columns, 4)
    assert shared_area(boxes) < 1e-6
    assert areas(boxes).sum().item() == pytest.approx(size[0] * size[1])
    assert boxes[0].tolist() == pytest.approx([0, 0, size[0] / columns, size[1] / rows])


@patient
@given(size=sizes, cell=cells, grid=grids, scale=st.floats(0.2, 3.0))
def test_a_centred_grid_tiles_the_visible_part(
    size: tuple[int, int], cell: int, grid: tuple[int, int], scale: float
) -> None:
    columns, rows = grid
    resized = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    canvas = Canvas.of(size).resized(*resized).centred(columns * cell, rows * cell)
    boxes = grid_boxes(canvas, cell)
    placed = boxes[~boxes.isnan().any(-1)]
    assert shared_area(placed) < 1e-6 * size[0] * size[1]
    visible = (
        min(resized[0], columns * cell) / resized[0] * (min(resized[1], rows * cell) / resized[1])
    )
    assert areas(placed).sum().item() == pytest.approx(visible * size[0] * size[1])


@patient
@given(size=sizes, grid=grids, tiles=grids, cell=cells)
def test_tiles_tile_the_whole_image_in_their_own_order(
    size: tuple[int, int], grid: tuple[int, int], tiles: tuple[int, int], cell: int
) -> None:
    columns, rows = min(grid[0], 4), min(grid[1], 4)
    across, down = min(tiles[0], 3), min(tiles[1], 3)
    tile = (columns * cell, rows * cell)
    canvas = Canvas.of(size).resized(tile[0] * across, tile[1] * down)
    boxes = tile_boxes(canvas, down, across, tile, cell)
    assert shared_area(boxes) < 1e-6 * size[0] * size[1]
    assert areas(boxes).sum().item() == pytest.approx(size[0] * size[1])
    # The same boxes as one grid, read tile by tile.
    whole = grid_boxes(canvas, cell).view(down, rows, across, columns, 4)
    assert torch.allclose(boxes, whole.transpose(1, 2).flatten(0, 3))


@patient
@given(size=sizes, grid=grids)
def test_the_full_image_selects_every_token_with_a_place(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    boxes = grid_boxes(Canvas.of(size).resized(*grid), 1)
    boxes = torch.cat([no_place(2), boxes, no_place(1)])
    selected = tokens_in_region(boxes, Region(box=(0, 0, *size), image_size=size))
    assert selected.dtype == torch.bool
    assert torch.equal(selected, ~boxes.isnan().any(-1))


@patient
@given(size=sizes, grid=grids, data=st.data())
def test_selection_grows_with_the_region(
    size: tuple[int, int], grid: tuple[int, int], data: st.DataObject
) -> None:
    boxes = grid_boxes(Canvas.of(size).resized(*grid), 1)
    first, second = data.draw(regions(size)), data.draw(regions(size))
    union = Region(
        box=(
            min(first.box[0], second.box[0]),
            min(first.box[1], second.box[1]),
            max(first.box[2], second.box[2]),
            max(first.box[3], second.box[3]),
        ),
        image_size=size,
    )
    larger = tokens_in_region(boxes, union)
    for part in (first, second):
        assert not (tokens_in_region(boxes, part) & ~larger).any()


@patient
@given(size=sizes, grid=grids, data=st.data())
def test_a_tokens_own_box_selects_that_token_alone(
    size: tuple[int, int], grid: tuple[int, int], data: st.DataObject
) -> None:
    boxes = grid_boxes(Canvas.of(size).resized(*grid), 1)
    token = data.draw(st.integers(0, len(boxes) - 1))
    left, top, right, bottom = boxes[token].tolist()
    box = (left, top, min(right, size[0]), min(bottom, size[1]))
    selected = tokens_in_region(boxes, Region(box=box, image_size=size))
    assert selected.nonzero().flatten().tolist() == [token]


def test_touching_edges_do_not_count() -> None:
    boxes = grid_boxes(Canvas.of((640, 480)).resized(448, 336).centred(336, 336), 14)
    selected = tokens_in_region(boxes, Region(box=(80, 0, 100, 20), image_size=(640, 480)))
    assert selected.nonzero().flatten().tolist() == [0]
    selected = tokens_in_region(boxes, Region(box=(80, 0, 100.01, 20), image_size=(640, 480)))
    assert selected.nonzero().flatten().tolist() == [0, 1]


def test_a_region_outside_the_crop_is_one_sentence() -> None:
    boxes = grid_boxes(Canvas.of((640, 480)).resized(448, 336).centred(336, 336), 14)
    with pytest.raises(PromptError, match=r"only the part \(80, 0, 560, 480\)") as error:
        tokens_in_region(boxes, Region(box=(0, 0, 80, 480), image_size=(640, 480)))
    assert "\n" not in str(error.value)
    with pytest.raises(PromptError, match="none of the tokens"):
        tokens_in_region(no_place(3), Region(box=(0, 0, 80, 480), image_size=(640, 480)))


@pytest.mark.parametrize(
    ("inner", "outer", "left"), [(10, 7, -1), (7, 10, 1), (7, 12, 2), (8, 8, 0), (9, 4, -2)]
)
def test_odd_pixels_when_centring(inner: int, outer: int, left: int) -> None:
    canvas = Canvas.of((inner, inner)).centred(outer, outer)
    assert (canvas.left, canvas.top) == (left, left)


def test_cells_on_padding_have_no_place() -> None:
    boxes = grid_boxes(Canvas.of((8, 4)).centred(8, 8), 2).view(4, 4, 4)
    assert boxes[0].isnan().all()
    assert boxes[3].isnan().all()
    assert boxes[1, 0].tolist() == [0, 0, 2, 2]
    assert boxes[2, 3].tolist() == [6, 2, 8, 4]


def test_cells_that_reach_over_the_edge_are_clipped() -> None:
    boxes = grid_boxes(Canvas.of((5, 5)).cropped(-1, -1, 8, 8), 4).view(2, 2, 4)
    assert boxes[0, 0].tolist() == [0, 0, 3, 3]
    assert boxes[1, 1].tolist() == [3, 3, 5, 5]


def test_a_remainder_of_the_canvas_is_not_seen() -> None:
    assert cell_intervals(384, 14).shape == (27, 2)
    boxes = grid_boxes(Canvas.of((384, 384)), 14)
    assert boxes[:, 2:].max() == 378


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 60), columns=st.integers(1, 60), size=st.tuples(st.integers(1, 4000), sides)
)
def test_unpadding_is_that_of_transformers(rows: int, columns: int, size: tuple[int, int]) -> None:
    unpad_image = pytest.importorskip(
        "transformers.models.llava_next.modeling_llava_next"
    ).unpad_image
    cells_of_map = torch.arange(rows * columns).view(1, rows, columns)
    kept_rows, kept_columns = unpadded_slices(rows, columns, size)
    expected = unpad_image(cells_of_map, (size[1], size[0]))
    assert torch.equal(cells_of_map[:, kept_rows, kept_columns], expected)


def test_anyres_rows_end_in_a_newline() -> None:
    # 112 x 56 pixels fill two tiles of 56; 4 tokens per side and tile.
    canvas = Canvas.of((224, 112)).resized(112, 56)
    boxes = anyres_boxes(canvas, 56, 14, (224, 112), None).view(4, 9, 4)
    assert boxes[:, 8].isnan().all()
    assert not boxes[:, :8].isnan().any()
    assert boxes[1, 5].tolist() == [140, 28, 168, 56]


@patient
@given(tiles=grids, cap=st.integers(1, 4))
def test_scaled_down_anyres_tiles_still_tile_the_image(tiles: tuple[int, int], cap: int) -> None:
    across, down = min(tiles[0], 4), min(tiles[1], 4)
    # A stretched canvas that unpadding leaves alone.
    canvas = Canvas.of((across * 40, down * 40)).resized(across * 56, down * 56)
    boxes = anyres_boxes(canvas, 56, 14, (across * 40, down * 40), cap)
    placed = boxes[~boxes.isnan().any(-1)]
    assert shared_area(placed) < 1e-6
    assert areas(placed).sum().item() == pytest.approx(across * down * 1600)
    assert len(placed) <= max(cap * 16 * 1.21, 16)


@patient
@given(count=st.integers(1, 40), share=st.integers(1, 40))
def test_shrinking_keeps_the_extent(count: int, share: int) -> None:
    share = min(share, count)
    joined = shrink_intervals(cell_intervals(count * 14, 14), share)
    assert joined.shape == (share, 2)
    assert joined[0, 0] == 0
    assert joined[-1, 1].item() == pytest.approx(count * 14)
    assert torch.allclose(joined[1:, 0], joined[:-1, 1])


def test_shrinking_steps_over_the_gap_between_tiles() -> None:
    # Cells 0-4 and 4-8 of a 9 pixel tile, then the next tile's.
    intervals = torch.tensor([[0.0, 4.0], [4.0, 8.0], [9.0, 13.0], [13.0, 17.0]])
    assert shrink_intervals(intervals, 2).tolist() == [[0.0, 8.0], [9.0, 17.0]]


@given(st.integers(1, 40), st.integers(1, 40))
def test_pooled_ranges_are_those_of_adaptive_average_pooling(cells: int, count: int) -> None:
    count = min(cells, count)
    ranges = pool_intervals(cell_intervals(float(cells), 1.0), count)
    # Each mean's dependence on each cell, from the pooling itself.
    weights = torch.nn.functional.adaptive_avg_pool1d(torch.eye(cells)[None], count)[0]
    for index, (start, end) in enumerate(ranges.long().tolist()):
        inside = weights[start:end, index]
        assert (inside > 0).all()
        assert torch.isclose(weights[:, index].sum(), inside.sum())


def test_pooling_from_24_to_16_shares_every_other_cell() -> None:
    ranges = pool_intervals(cell_intervals(24.0, 1.0), 16).tolist()
    assert ranges[:4] == [[0.0, 2.0], [1.0, 3.0], [3.0, 5.0], [4.0, 6.0]]
