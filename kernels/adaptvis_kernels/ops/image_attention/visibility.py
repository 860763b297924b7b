"""Which columns a row sees; shared by both passes of image attention."""

import triton
import triton.language as tl


@triton.jit
def positions_of_rows(
    row_positions,
    rows,
    row_is_real,
    batch,
    row_count,
    width,
    stride_positions_batch,
    stride_positions_row,
    HAS_POSITIONS: tl.constexpr,
):
    """Token position of each row, int32; without positions the rows are the last of the tokens."""
    position = width - row_count + rows
    if HAS_POSITIONS:
        pointers = row_positions + batch * stride_positions_batch + rows * stride_positions_row
        position = tl.load(pointers, mask=row_is_real, other=-1).to(tl.int32)
    return tl.where(row_is_real, position, -1)


@triton.jit
def sees(
    rows,
    row_is_real,
    row_position,
    columns,
    column_is_real,
    first_column,
    window,
    visible,
    stride_visible_row,
    stride_visible_column,
    HAS_VISIBLE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Whether each row may see each column; ``visible`` points at the batch entry's mask."""
    seen = row_is_real[:, None] & column_is_real[None, :]
    if HAS_VISIBLE:
        mask = tl.load(
            visible
            + rows.to(tl.int64)[:, None] * stride_visible_row
            + columns.to(tl.int64)[None, :] * stride_visible_column,
            mask=seen,
            other=0,
        )
        seen = mask != 0
    else:
        seen = seen & (columns[None, :] <= row_position[:, None])
        seen = seen & (columns[None, :] >= first_column)
        if HAS_WINDOW:
            seen = seen & (columns[None, :] > row_position[:, None] - window)
    return seen
