"""Attention of a few query rows on image tokens: one pass over the keys, then one to normalise.

    s_j = c_j * softcap(scaling * q . k_j)     c_j = alpha of the row at image columns, else 1
    weight_j = exp(s_j) / sum over all visible columns of exp(s)

``image_logits`` (one program: BLOCK_M rows of one batch entry and key head, one slice of the
columns) keeps running maxima and sums of image columns and of the others apart, so that one
exponential per logit serves both and the statistics over the image stay accurate where its share
underflows. Raw image logits go to their slot in ``weights``. ``image_finish`` (finish.py) merges
the slices and turns raw logits into weights in place. Logits are in units of log2 throughout.

Rows of a group: i = head_in_group * R + row, so that a key is read once for all heads that share it
and row i of group g is row (batch * H + g * group_size) * R + i of every output.

partials [6, B * H * R, splits]: maximum and sum over other columns; maximum, sum and first moment
(sum of 2^x * x, x = logit - maximum) over image columns; number of visible image columns.
"""

import triton
import triton.language as tl

from ...product import product
from .visibility import positions_of_rows, sees


@triton.jit
def image_slots(
    positions,
    slots,
    count,
    width,
    stride_positions_batch,
    stride_positions_slot,
    BLOCK: tl.constexpr,
):
    """slots[b, positions[b, j]] = j; slots [B, width] holds -1 before. The last of equals wins."""
    batch = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.load(
        positions + batch * stride_positions_batch + slot.to(tl.int64) * stride_positions_slot,
        mask=slot < count,
        other=-1,
    )
    inside = (column >= 0) & (column < width)
    tl.atomic_max(slots + batch * width + column, slot, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["stride_visible_batch", "stride_visible_row"])
def image_logits(
    query,
    key,
    slots,
    row_positions,
    first_columns,
    visible,
    row_alpha,
    heads,
    weights,
    partials,
    row_count,
    width,
    slot_count,
    group_size,
    key_heads,
    output_rows,
    splits,
    row_tiles,
    logit_scale,
    softcap,
    window,
    stride_query_batch,
    stride_query_head,
    stride_query_row,
    stride_query_size,
    stride_key_batch,
    stride_key_head,
    stride_key_column,
    stride_key_size,
    stride_positions_batch,
    stride_positions_row,
    stride_first_batch,
    stride_visible_batch,
    stride_visible_row,
    stride_visible_column,
    stride_alpha_batch,
    stride_alpha_row,
    stride_heads,
    HEAD_SIZE: tl.constexpr,
    HAS_POSITIONS: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_ALPHA: tl.constexpr,
    HAS_HEADS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # Row tiles are innermost: programs that read the same keys run at the same time.
    program = tl.program_id(0)
    tile = program % row_tiles
    split = (program // row_tiles) % splits
    key_head = (program // (row_tiles * splits)) % key_heads
    batch = (program // (row_tiles * splits * key_heads)).to(tl.int64)

    index = tile * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    row_is_real = index < group_size * row_count
    rows = index % row_count
    head = key_head * group_size + index // row_count
    size = tl.arange(0, BLOCK_D)
    column_offset = tl.arange(0, BLOCK_N)

    query_tile = tl.load(
        query
        + batch * stride_query_batch
        + (head.to(tl.int64) * stride_query_head + rows.to(tl.int64) * stride_query_row)[:, None]
        + size.to(tl.int64)[None, :] * stride_query_size,
        mask=row_is_real[:, None] & (size < HEAD_SIZE)[None, :],
        other=0.0,
    )  # [BLOCK_M, BLOCK_D]
    row_position = positions_of_rows(
        row_positions,
        rows,
        row_is_real,
        batch,
        row_count,
        width,
        stride_positions_batch,
        stride_positions_row,
        HAS_POSITIONS,
    )
    if HAS_ALPHA:
        alpha = tl.load(
            row_alpha + batch * stride_alpha_batch + rows * stride_alpha_row,
            mask=row_is_real,
            other=1.0,
        )
        if HAS_HEADS:
            steered = tl.load(heads + head * stride_heads, mask=row_is_real, other=0)
            alpha = tl.where(steered != 0, alpha, 1.0)

    # Columns that some row of this tile sees, dealt evenly to the splits.
    first_column = 0
    begin = 0
    end = width
    if not HAS_VISIBLE:
        if HAS_FIRST:
            first_column = tl.load(first_columns + batch * stride_first_batch)
        begin = tl.maximum(first_column, 0)
        if HAS_WINDOW:
            lowest = tl.min(tl.where(row_is_real, row_position, 2147483647), 0)
            begin = tl.maximum(begin, lowest - window + 1)
        begin = begin // BLOCK_N * BLOCK_N
        end = tl.minimum(end, tl.max(row_position, 0) + 1)
    tiles = tl.maximum(end - begin + BLOCK_N - 1, 0) // BLOCK_N
    columns_per_split = (tiles + splits - 1) // splits * BLOCK_N
    begin += split * columns_per_split
    end = tl.minimum(end, begin + columns_per_split)

    key_tile_at_zero = (
        key
        + batch * stride_key_batch
        + key_head.to(tl.int64) * stride_key_head
        + size.to(tl.int64)[:, None] * stride_key_size
        + column_offset.to(tl.int64)[None, :] * stride_key_column
    )  # [BLOCK_D, BLOCK_N]
    output_row = (batch * key_heads + key_head) * group_size * row_count + index  # int64 [BLOCK_M]
    weights_tile = (
        weights
        + ((batch * key_heads + key_head) * group_size * row_count + tile * BLOCK_M) * slot_count
    )
    weights_offset = tl.arange(0, BLOCK_M) * slot_count
    if HAS_VISIBLE:
        visible += batch * stride_visible_batch

    other_largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    other_total = tl.zeros([BLOCK_M], tl.float32)
    image_largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    image_total = tl.zeros([BLOCK_M], tl.float32)
    image_moment = tl.zeros([BLOCK_M], tl.float32)
    image_count = tl.zeros([BLOCK_M], tl.float32)
    for start in range(begin, end, BLOCK_N):
        columns = start + column_offset
        column_is_real = columns < end
        key_mask = column_is_real[None, :]
        if HEAD_SIZE != BLOCK_D:
            key_mask = key_mask & (size < HEAD_SIZE)[:, None]
        key_tile = tl.load(
            key_tile_at_zero + tl.cast(start, tl.int64) * stride_key_column,
            mask=key_mask,
            other=0.0,
        )
        slot = tl.load(slots + batch * width + columns, mask=column_is_real, other=-1)
        is_image = (slot >= 0)[None, :]  # [1, BLOCK_N]

        logits = product(query_tile, key_tile, tl.zeros([BLOCK_M, BLOCK_N], tl.float32))
        logits = logits * logit_scale
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (exp(2 x) + 1); 2 and log2(e) are in the scale.
            logits = softcap * (1.0 - 2.0 / (tl.exp2(logits) + 1.0))
        if HAS_ALPHA:
            logits = tl.where(is_image, logits * alpha[:, None], logits)
        seen = sees(
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
            HAS_VISIBLE,
            HAS_WINDOW,
        )
        logits = tl.where(seen, logits, float("-inf"))  # [BLOCK_M, BLOCK_N]
        tl.store(
            weights_tile + (weights_offset[:, None] + slot[None, :]),
            logits,
            mask=row_is_real[:, None] & is_image,
        )

        # Rows that have seen nothing yet keep -inf: subtracting 0 instead avoids inf - inf.
        other_new = tl.maximum(other_largest, tl.max(tl.where(is_image, float("-inf"), logits), 1))
        image_new = tl.maximum(image_largest, tl.max(tl.where(is_image, logits, float("-inf")), 1))
        other_finite = tl.where(other_new == float("-inf"), 0.0, other_new)
        image_finite = tl.where(image_new == float("-inf"), 0.0, image_new)
        shifted = logits - tl.where(is_image, image_finite[:, None], other_finite[:, None])
        exponentials = tl.exp2(shifted)

        other_decay = tl.exp2(other_largest - other_finite)
        other_total = other_total * other_decay + tl.sum(tl.where(is_image, 0.0, exponentials), 1)
        # A larger maximum moves x by `drop`; where that is below -1024 the old sums vanish anyway.
        drop = tl.maximum(image_largest - image_finite, -1024.0)
        image_decay = tl.exp2(drop)
        image_moment = image_decay * (image_moment + drop * image_total)
        on_image = tl.where(is_image, exponentials, 0.0)
        image_moment += tl.sum(on_image * tl.where(on_image > 0.0, shifted, 0.0), 1)
        image_total = image_total * image_decay + tl.sum(on_image, 1)
        image_count += tl.sum(tl.where(seen & is_image, 1.0, 0.0), 1)
        other_largest = other_new
        image_largest = image_new

    partial = partials + output_row * splits + split
    stride_partial = tl.cast(output_rows, tl.int64) * splits
    tl.store(partial, other_largest, mask=row_is_real)
    tl.store(partial + stride_partial, other_total, mask=row_is_real)
    tl.store(partial + 2 * stride_partial, image_largest, mask=row_is_real)
    tl.store(partial + 3 * stride_partial, image_total, mask=row_is_real)
    tl.store(partial + 4 * stride_partial, image_moment, mask=row_is_real)
    tl.store(partial + 5 * stride_partial, image_count, mask=row_is_real)
