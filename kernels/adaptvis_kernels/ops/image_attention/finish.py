"""The second pass of image attention: slices merged, logits turned into weights in place.

Layouts and units are those of kernel.py.
"""

import triton
import triton.language as tl

from .visibility import positions_of_rows, sees

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["stride_visible_batch", "stride_visible_row"])
def image_finish(
    partials,
    positions,
    slots,
    row_positions,
    first_columns,
    visible,
    weights,
    share,
    entropy,
    log_sum_exp,
    row_count,
    width,
    slot_count,
    rows_per_batch,
    output_rows,
    splits,
    window,
    stride_image_batch,
    stride_image_slot,
    stride_positions_batch,
    stride_positions_row,
    stride_first_batch,
    stride_visible_batch,
    stride_visible_row,
    stride_visible_column,
    HAS_POSITIONS: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
):
    """Merge the slices of BLOCK_ROWS rows of one batch entry; normalise BLOCK_SLOTS weights each.

    Every program of a row merges for itself, which costs less than a launch; the first one writes
    the statistics.
    """
    row_blocks = (rows_per_batch + BLOCK_ROWS - 1) // BLOCK_ROWS
    batch = (tl.program_id(0) // row_blocks).to(tl.int64)
    index = tl.program_id(0) % row_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_is_real = index < rows_per_batch
    rows = index % row_count
    output_row = batch * rows_per_batch + index  # int64 [BLOCK_ROWS]

    split = tl.arange(0, BLOCK_SPLITS)
    partial = partials + output_row[:, None] * splits + split[None, :]
    partial_is_real = row_is_real[:, None] & (split < splits)[None, :]
    stride_partial = tl.cast(output_rows, tl.int64) * splits
    other_largest = tl.load(partial, mask=partial_is_real, other=float("-inf"))
    other_total = tl.load(partial + stride_partial, mask=partial_is_real, other=0.0)
    image_largest = tl.load(partial + 2 * stride_partial, mask=partial_is_real, other=float("-inf"))
    image_total = tl.load(partial + 3 * stride_partial, mask=partial_is_real, other=0.0)
    image_moment = tl.load(partial + 4 * stride_partial, mask=partial_is_real, other=0.0)
    image_count = tl.load(partial + 5 * stride_partial, mask=partial_is_real, other=0.0)

    image_top = tl.max(image_largest, 1)
    largest = tl.maximum(tl.max(other_largest, 1), image_top)  # [BLOCK_ROWS]
    finite = tl.where(largest == float("-inf"), 0.0, largest)
    image_finite = tl.where(image_top == float("-inf"), 0.0, image_top)
    total = tl.sum(other_total * tl.exp2(other_largest - finite[:, None]), 1)
    drop = tl.maximum(image_largest - image_finite[:, None], -1024.0)
    image_decay = tl.exp2(drop)
    moment = tl.sum(image_decay * (image_moment + drop * image_total), 1)
    on_image = tl.sum(image_total * image_decay, 1)
    count = tl.sum(image_count, 1)
    image_part = on_image * tl.exp2(image_top - finite)
    total += image_part
    safe_total = tl.where(largest == float("-inf"), 1.0, total)

    if tl.program_id(1) == 0:
        tl.store(share + output_row, image_part / safe_total, mask=row_is_real)
        natural = (finite + tl.log2(safe_total)) * LN_2
        natural = tl.where(largest == float("-inf"), float("-inf"), natural)
        tl.store(log_sum_exp + output_row, natural, mask=row_is_real)
        safe_image = tl.where(count > 0.0, on_image, 1.0)
        most = tl.log2(tl.maximum(count, 2.0))
        ratio = (tl.log2(safe_image) - moment / safe_image) / most
        ratio = tl.minimum(tl.maximum(ratio, 0.0), 1.0)
        tl.store(entropy + output_row, tl.where(count > 1.0, ratio, 0.0), mask=row_is_real)

    slot = tl.program_id(1) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    column = tl.load(
        positions + batch * stride_image_batch + slot.to(tl.int64) * stride_image_slot,
        mask=slot < slot_count,
        other=-1,
    ).to(tl.int64)
    column_is_real = (column >= 0) & (column < width)
    # Of a position listed twice, only the slot that image_slots kept was written.
    kept = tl.load(slots + batch * width + column, mask=column_is_real, other=-1)
    column_is_real = column_is_real & (kept == slot)
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
    first_column = 0
    if HAS_FIRST:
        first_column = tl.load(first_columns + batch * stride_first_batch)
    if HAS_VISIBLE:
        visible += batch * stride_visible_batch
    seen = sees(
        rows,
        row_is_real,
        row_position,
        column,
        column_is_real,
        first_column,
        window,
        visible,
        stride_visible_row,
        stride_visible_column,
        HAS_VISIBLE,
        HAS_WINDOW,
    )
    pointers = weights + output_row[:, None] * slot_count + slot[None, :]
    logits = tl.load(pointers, mask=seen, other=float("-inf"))
    normalised = tl.exp2(logits - finite[:, None]) / safe_total[:, None]
    tl.store(
        pointers,
        tl.where(seen, normalised, 0.0),
        mask=row_is_real[:, None] & (slot < slot_count)[None, :],
    )
