"""The loops over columns that the prefill kernel runs for one tile of rows."""

from __future__ import annotations

import triton
import triton.language as tl

from ...product import product
from ...softmax import online_softmax_step

__all__ = ["attend_interval"]


@triton.jit
def _attend_tiles(
    accumulator,  # [BLOCK_M, BLOCK_D]
    largest,  # [BLOCK_M]
    total,  # [BLOCK_M]
    query_tile,  # [BLOCK_M, BLOCK_D]
    key,
    value,
    stride_kn,
    stride_kd,
    stride_vn,
    stride_vd,
    begin,
    end,
    gap_at,
    gap,
    row_lo,
    row_hi,
    row_valid,
    lo,
    hi,
    visible_rows,
    stride_visn,
    alpha,
    image_columns,
    stride_icn,
    span_starts,
    span_ends,
    logit_scale,
    inner_scale,
    HEAD_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGE_SPANS: tl.constexpr,
    STEERED: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Take in the column tiles that start in [begin, end), leaping over ``gap`` at ``gap_at``."""
    dims = tl.arange(0, BLOCK_D)
    offsets = tl.arange(0, BLOCK_N)
    key_offsets = offsets[:, None] * stride_kn + dims[None, :] * stride_kd  # [BLOCK_N, BLOCK_D]
    value_offsets = offsets[:, None] * stride_vn + dims[None, :] * stride_vd
    for step in tl.range(begin, end, BLOCK_N):
        start = step
        if MASKED:
            start = step + tl.where(step >= gap_at, gap, 0)
        start = tl.multiple_of(start, BLOCK_N)
        columns = start + offsets
        # Of a mask that is stored by column, a column's offset may need 64 bits.
        wide_columns = columns.to(tl.int64)
        seen = (columns >= lo) & (columns < hi)
        key_start = key + tl.cast(start, tl.int64) * stride_kn
        value_start = value + tl.cast(start, tl.int64) * stride_vn

        if visible_rows is not None:
            mask = tl.load(
                visible_rows[:, None] + (wide_columns * stride_visn)[None, :],
                mask=row_valid[:, None] & seen[None, :],
                other=0,
            )  # [BLOCK_M, BLOCK_N]
            value_seen = tl.max(mask, 0) != 0
        else:
            value_seen = seen
        if STEERED and image_columns is not None:
            if MASKED:
                image = tl.load(image_columns + wide_columns * stride_icn, mask=seen, other=0)
            else:
                image = tl.load(image_columns + wide_columns * stride_icn)

        in_head = dims < HEAD_SIZE
        if MASKED:
            key_mask = seen[:, None] & in_head[None, :]
            value_mask = value_seen[:, None] & in_head[None, :]
            key_tile = tl.load(key_start + key_offsets, mask=key_mask, other=0.0)
            value_tile = tl.load(value_start + value_offsets, mask=value_mask, other=0.0)
        elif HEAD_SIZE != BLOCK_D:
            key_tile = tl.load(key_start + key_offsets, mask=in_head[None, :], other=0.0)
            value_tile = tl.load(value_start + value_offsets, mask=in_head[None, :], other=0.0)
        else:
            key_tile = tl.load(key_start + key_offsets)
            value_tile = tl.load(value_start + value_offsets)

        no_products = tl.zeros([query_tile.shape[0], BLOCK_N], tl.float32)
        logits = product(query_tile, tl.trans(key_tile), no_products)
        if SOFTCAP:
            # tanh(x) = 1 - 2 / (1 + 2 ** (2 x log2(e))), which is right at both infinities.
            logits = 1.0 - 2.0 / (1.0 + tl.exp2(logits * inner_scale))

        if STEERED:
            if image_columns is not None:
                in_image = image != 0
            else:
                in_image = columns < 0
                for index in tl.static_range(IMAGE_SPANS):
                    in_image |= (columns >= span_starts[index]) & (columns < span_ends[index])
            logits = logits * tl.where(in_image[None, :], alpha[:, None], logit_scale)
        if MASKED:
            if not STEERED:
                logits = logits * logit_scale
            if visible_rows is not None:
                logits = tl.where(mask != 0, logits, float("-inf"))
            else:
                in_interval = (columns[None, :] >= row_lo[:, None]) & (
                    columns[None, :] < row_hi[:, None]
                )
                logits = tl.where(in_interval, logits, float("-inf"))

        if MASKED or STEERED:
            weights, decay, largest, total = online_softmax_step(logits, largest, total)
        else:
            # Nothing is masked and one positive scale serves all: it fuses into the exponent.
            new_largest = tl.maximum(largest, tl.max(logits, 1) * logit_scale)
            weights = tl.exp2(logits * logit_scale - new_largest[:, None])
            decay = tl.exp2(largest - new_largest)
            total = total * decay + tl.sum(weights, 1)
            largest = new_largest
        accumulator = accumulator * decay[:, None]
        accumulator = product(weights.to(value_tile.dtype), value_tile, accumulator)
    return accumulator, largest, total


@triton.jit
def attend_interval(
    accumulator,  # [BLOCK_M, BLOCK_D]
    largest,  # [BLOCK_M]
    total,  # [BLOCK_M]
    query_tile,  # [BLOCK_M, BLOCK_D]
    key,
    value,
    stride_kn,
    stride_kd,
    stride_vn,
    stride_vd,
    row_lo,
    row_hi,
    row_valid,
    lo,
    hi,
    full_lo,
    full_hi,
    visible_rows,
    stride_visn,
    alpha,
    image_columns,
    stride_icn,
    span_starts,
    span_ends,
    logit_scale,
    inner_scale,
    HEAD_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGE_SPANS: tl.constexpr,
    STEERED: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """All columns in [lo, hi): first [full_lo, full_hi), that every row sees, then the edges.

    Takes and returns the sum of weighted values, and of each row the largest logit, in units of
    log2, and the sum of weights.
    """
    gap = full_hi - full_lo
    begin = lo // BLOCK_N * BLOCK_N
    # An explicit mask leaves no column that is known to be seen by every row.
    for MASKED in tl.static_range(0 if visible_rows is None else 1, 2):
        accumulator, largest, total = _attend_tiles(
            accumulator,
            largest,
            total,
            query_tile,
            key,
            value,
            stride_kn,
            stride_kd,
            stride_vn,
            stride_vd,
            begin if MASKED else full_lo,
            hi - gap if MASKED else full_hi,
            full_lo,
            gap,
            row_lo,
            row_hi,
            row_valid,
            lo,
            hi,
            visible_rows,
            stride_visn,
            alpha,
            image_columns,
            stride_icn,
            span_starts,
            span_ends,
            logit_scale,
            inner_scale,
            HEAD_SIZE,
            BLOCK_N,
            BLOCK_D,
            IMAGE_SPANS,
            STEERED,
            MASKED,
            SOFTCAP,
        )
    return accumulator, largest, total
