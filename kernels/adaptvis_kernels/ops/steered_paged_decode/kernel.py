"""Steered attention of a few query rows over a paged cache, split over the columns.

For query row i of a request, query head h, and the columns j that the row sees:

    s_ij = softcap(scaling * q_i . k_j)
    s_ij = alpha_i * s_ij                    where column j is an image token and head h is steered
    o_i  = sum_j softmax(s_i)_j v_j

One program takes one request, one key/value head, one tile of (row, query head of the group) pairs
and one slice of the columns, so keys and values are read once for all query heads of the group and
all rows of the tile. With several slices the second kernel merges the partial results by their
log-sum-exp (flash decoding). Logits are kept in units of log2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...columns import inside_spans, load_spans
from ...product import product
from ...softmax import LOG2_E, online_softmax_step

__all__ = ["merge_splits_kernel", "steered_paged_decode_kernel"]


# Rows of a mask are as long as the context, which grows by one token a step: one kernel for all.
@triton.jit(
    do_not_specialize=[
        "stride_columns_request",
        "stride_visible_row",
        "image_width",
        "visible_width",
    ]
)
def steered_paged_decode_kernel(
    query,  # [T, H, D]
    key_cache,  # [blocks, block_size, G, D]
    value_cache,  # [blocks, block_size, G, D]
    block_table,  # int32 [B, max_blocks]
    sequence_lengths,  # int32 [B]
    row_starts,  # int32 [B + 1]
    row_alpha,  # float32 [T]
    image_columns,  # bool [B, image_width]; columns behind it are no image tokens
    image_spans,  # int32 [B, S, 2]
    heads,  # bool [H]
    first_columns,  # int32 [B]
    visible,  # bool [T, visible_width]; columns behind it are not visible
    output,  # [T, H, D], or float32 [splits, T, H, D]
    log_sum_exp,  # float32 [T, H], or [splits, T, H] in units of log2
    stride_query_row,
    stride_query_head,
    stride_query_dim,
    stride_key_block,
    stride_key_token,
    stride_key_head,
    stride_key_dim,
    stride_value_block,
    stride_value_token,
    stride_value_head,
    stride_value_dim,
    stride_table_request,
    stride_columns_request,
    stride_visible_row,
    stride_visible_column,
    image_width,
    visible_width,
    total_rows,
    rows_per_request,
    block_size,
    num_splits,
    span_count,
    scaling,
    softcap,
    window,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    ONE_BLOCK: tl.constexpr,  # the cache of a request is a single block: a dense cache
    TILE_IN_BLOCK: tl.constexpr,  # a tile of columns never straddles two blocks
    SINGLE_ROW: tl.constexpr,
    HAS_ROW_STARTS: tl.constexpr,
    HAS_COLUMNS: tl.constexpr,
    HAS_SPANS: tl.constexpr,
    HAS_HEADS: tl.constexpr,
    HAS_FIRST_COLUMNS: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WANTS_LOG_SUM_EXP: tl.constexpr,
):
    tile = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    group = tl.program_id(1)
    request = tl.program_id(2)

    if HAS_ROW_STARTS:
        first_row = tl.load(row_starts + request)
        rows = tl.load(row_starts + request + 1) - first_row
    else:
        first_row = request * rows_per_request
        rows = rows_per_request
    if tile * BLOCK_M >= rows * GROUP:
        return
    length = tl.load(sequence_lengths + request)

    offset_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row = offset_m // GROUP
    head = group * GROUP + offset_m % GROUP
    is_row = row < rows
    token = (first_row + row).to(tl.int64)
    position = length - rows + row
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < HEAD_SIZE

    query_tile = tl.load(
        query
        + (token * stride_query_row + head * stride_query_head)[:, None]
        + (dim * stride_query_dim)[None, :],
        mask=is_row[:, None] & is_dim[None, :],
        other=0.0,
    )  # [BLOCK_M, BLOCK_D]
    alpha = tl.load(row_alpha + token, mask=is_row, other=1.0)
    if HAS_HEADS:
        is_steered_head = tl.load(heads + head, mask=is_row, other=0) != 0
        alpha = tl.where(is_steered_head, alpha, 1.0)

    # The columns that some row of this tile may see.
    begin = 0
    if HAS_FIRST_COLUMNS:
        begin = tl.load(first_columns + request)
    if HAS_VISIBLE:
        end = tl.minimum(length, visible_width)
    else:
        last_row = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, rows - 1)
        end = length - rows + last_row + 1
        if HAS_WINDOW:
            begin = tl.maximum(begin, length - rows + tile * BLOCK_M // GROUP - window + 1)
    begin = tl.maximum(begin, 0)
    # Slices start at multiples of BLOCK_N, so that a tile stays within one block of the cache.
    aligned = begin // BLOCK_N * BLOCK_N
    tiles_per_split = tl.cdiv(tl.cdiv(tl.maximum(end - aligned, 0), BLOCK_N), num_splits)
    slice_begin = aligned + split * tiles_per_split * BLOCK_N
    slice_end = tl.minimum(slice_begin + tiles_per_split * BLOCK_N, end)

    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    table = block_table + request.to(tl.int64) * stride_table_request
    key_head = key_cache + group.to(tl.int64) * stride_key_head
    value_head = value_cache + group.to(tl.int64) * stride_value_head
    if HAS_COLUMNS:
        image_columns += request.to(tl.int64) * stride_columns_request
    if HAS_SPANS:
        span_starts, span_ends = load_spans(
            image_spans + request * span_count * 2, span_count, BLOCK_S
        )

    if ONE_BLOCK:
        block = tl.load(table).to(tl.int64)
        key_head += block * stride_key_block
        value_head += block * stride_value_block

    for start in range(slice_begin, slice_end, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        is_column = (column >= begin) & (column < slice_end)
        if ONE_BLOCK:
            slot = column.to(tl.int64)
            key_offset = slot * stride_key_token  # [BLOCK_N]
            value_offset = slot * stride_value_token
        elif TILE_IN_BLOCK:
            block = tl.load(table + start // block_size).to(tl.int64)
            slot = (start % block_size + tl.arange(0, BLOCK_N)).to(tl.int64)
            key_offset = block * stride_key_block + slot * stride_key_token
            value_offset = block * stride_value_block + slot * stride_value_token
        else:
            blocks = tl.load(table + column // block_size, mask=is_column, other=0).to(tl.int64)
            slot = (column % block_size).to(tl.int64)
            key_offset = blocks * stride_key_block + slot * stride_key_token
            value_offset = blocks * stride_value_block + slot * stride_value_token

        key_tile = tl.load(
            key_head + key_offset[None, :] + (dim * stride_key_dim)[:, None],
            mask=is_column[None, :] & is_dim[:, None],
            other=0.0,
        )  # [BLOCK_D, BLOCK_N]
        logits = product(query_tile, key_tile, tl.zeros([BLOCK_M, BLOCK_N], tl.float32)) * scaling
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (1 + exp(2 x)); exp overflows to the right limit.
            logits = softcap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * logits / softcap)))

        if HAS_SPANS:
            is_image = inside_spans(column, span_starts, span_ends)
            logits = tl.where(is_image[None, :], logits * alpha[:, None], logits)
        if HAS_COLUMNS:
            is_known = is_column & (column < image_width)
            is_image = tl.load(image_columns + column, mask=is_known, other=0) != 0
            logits = tl.where(is_image[None, :], logits * alpha[:, None], logits)

        is_used = is_column
        if HAS_VISIBLE:
            is_seen = (
                tl.load(
                    visible
                    + (token * stride_visible_row)[:, None]
                    + (column.to(tl.int64) * stride_visible_column)[None, :],
                    mask=is_row[:, None] & is_column[None, :],
                    other=0,
                )
                != 0
            )
            # Columns that nobody sees may hold anything: their values must not be multiplied.
            is_used = is_used & (tl.max(is_seen.to(tl.int32), 0) != 0)
        else:
            is_seen = is_column[None, :] & is_row[:, None]
            if not SINGLE_ROW:
                is_seen = is_seen & (column[None, :] <= position[:, None])
                if HAS_WINDOW:
                    is_seen = is_seen & (position[:, None] - column[None, :] < window)
        logits = tl.where(is_seen, logits * LOG2_E, float("-inf"))

        weights, decay, largest, total = online_softmax_step(logits, largest, total)
        value_tile = tl.load(
            value_head + value_offset[:, None] + (dim * stride_value_dim)[None, :],
            mask=is_used[:, None] & is_dim[None, :],
            other=0.0,
        )  # [BLOCK_N, BLOCK_D]
        accumulator = product(
            weights.to(value_tile.dtype), value_tile, accumulator * decay[:, None]
        )

    # A row that saw nothing has total 0: its output is 0 and its log-sum-exp -inf.
    result = accumulator / tl.where(total > 0, total, 1.0)[:, None]
    log_sum = largest + tl.log2(total)
    if IS_SPLIT:
        token = split.to(tl.int64) * total_rows + token
    row_offset = token * NUM_HEADS + head
    tl.store(
        output + row_offset[:, None] * HEAD_SIZE + dim[None, :],
        result.to(output.dtype.element_ty),
        mask=is_row[:, None] & is_dim[None, :],
    )
    if IS_SPLIT:
        tl.store(log_sum_exp + row_offset, log_sum, mask=is_row)
    elif WANTS_LOG_SUM_EXP:
        tl.store(log_sum_exp + row_offset, log_sum / LOG2_E, mask=is_row)


@triton.jit
def merge_splits_kernel(
    partial_output,  # float32 [splits, T, H, D]
    partial_log_sum,  # float32 [splits, T, H], in units of log2
    output,  # [T, H, D]
    log_sum_exp,  # float32 [T, H]
    total_rows,
    num_splits,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WANTS_LOG_SUM_EXP: tl.constexpr,
):
    """Merge the slices of one query row and head: a mean weighted by exp(log-sum-exp)."""
    row_offset = tl.program_id(0).to(tl.int64)  # token * NUM_HEADS + head
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < HEAD_SIZE

    largest = float("-inf")
    total = 0.0
    accumulator = tl.zeros([BLOCK_D], tl.float32)
    offset = row_offset
    for _ in range(num_splits):
        log_sum = tl.load(partial_log_sum + offset)
        part = tl.load(partial_output + offset * HEAD_SIZE + dim, mask=is_dim, other=0.0)
        new_largest = tl.maximum(largest, log_sum)
        finite = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        decay = tl.exp2(largest - finite)
        weight = tl.exp2(log_sum - finite)
        accumulator = accumulator * decay + part * weight
        total = total * decay + weight
        largest = new_largest
        offset += total_rows * NUM_HEADS

    result = accumulator / tl.where(total > 0, total, 1.0)
    tl.store(output + row_offset * HEAD_SIZE + dim, result.to(output.dtype.element_ty), mask=is_dim)
    if WANTS_LOG_SUM_EXP:
        tl.store(log_sum_exp + row_offset, (largest + tl.log2(total)) / LOG2_E)
