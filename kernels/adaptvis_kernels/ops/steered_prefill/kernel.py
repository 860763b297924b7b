"""Steered attention of many rows, in the manner of FlashAttention.

    t_ij = softcap(scaling * q_i . k_j) * (alpha_i if j is an image column and the head is steered)
    output_i = sum_j softmax_j(t_ij) v_j,  over the columns j that row i sees

Layout: query and output [B, H, R, D], key and value [B, G, N, D], by strides. With VARLEN query and
output are [T, H, D], key and value [S, G, D], and the requests lie one after another. The R rows
are the last of the N columns. One program computes BLOCK_M rows of one head.

Without an explicit mask the columns that a row sees are one interval: it ends behind the row (or
behind a bidirectional span that holds the row) and starts at the padding, the window or the span.
So a tile needs two integers per row, and from their extremes follows which column tiles every row
sees in full; only the others evaluate a mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...softmax import LOG2_E
from .column_loop import attend_interval

__all__ = ["steered_prefill_kernel"]

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _spans_in_registers(spans, count, SPANS: tl.constexpr):
    """Up to SPANS (start, end) pairs as two tuples of scalars; missing ones are empty."""
    starts = ()
    ends = ()
    for index in tl.static_range(SPANS):
        starts += (tl.load(spans + 2 * index, mask=index < count, other=0),)
        ends += (tl.load(spans + 2 * index + 1, mask=index < count, other=0),)
    return starts, ends


@triton.jit
def _visible_interval(positions, first, columns, window, spans, span_count, WINDOWED: tl.constexpr):
    """Half-open interval of columns that each row sees: [BLOCK_M], [BLOCK_M]."""
    row_lo = tl.zeros_like(positions)
    if WINDOWED:
        row_lo = tl.maximum(positions - window + 1, 0)
    row_hi = positions + 1
    if spans is not None:
        # A span that holds a row overlaps its causal interval: their union is an interval, too.
        for index in range(span_count):
            start = tl.load(spans + 2 * index)
            end = tl.load(spans + 2 * index + 1)
            inside = (positions >= start) & (positions < end)
            row_lo = tl.where(inside, tl.minimum(row_lo, start), row_lo)
            row_hi = tl.where(inside, tl.maximum(row_hi, end), row_hi)
    return tl.maximum(row_lo, first), tl.minimum(row_hi, columns)


# Numbers that differ from prompt to prompt, strides of masks among them: one kernel for all.
@triton.jit(
    do_not_specialize=[
        "stride_lb",
        "stride_lh",
        "stride_icb",
        "stride_visb",
        "stride_visr",
        "rows",
        "columns",
        "row_tiles",
        "pairs",
        "pairs_per_section",
        "image_span_count",
        "bidirectional_span_count",
        "window",
    ]
)
def steered_prefill_kernel(
    query,
    key,
    value,
    output,
    log_sum_exp,  # float32 or None
    row_alpha,  # float32
    heads,  # uint8 [H] or None
    image_columns,  # uint8 or None
    image_spans,  # int32 [B, image_span_count, 2] or None
    bidirectional_spans,  # int32 [B, bidirectional_span_count, 2] or None
    first_columns,  # int32 [B] or None
    visible,  # uint8 [B, R, N] or None
    query_starts,  # int32 [B + 1] with VARLEN, else None
    key_starts,
    stride_qb,
    stride_qh,
    stride_qr,
    stride_qd,
    stride_kb,
    stride_kg,
    stride_kn,
    stride_kd,
    stride_vb,
    stride_vg,
    stride_vn,
    stride_vd,
    stride_ob,
    stride_oh,
    stride_or,
    stride_od,
    stride_lb,
    stride_lh,
    stride_ab,
    stride_ar,
    stride_icb,
    stride_icn,
    stride_visb,
    stride_visr,
    stride_visn,
    rows,
    columns,
    row_tiles,
    pairs,
    pairs_per_section,
    image_span_count,
    bidirectional_span_count,
    window,
    scaling,
    softcap,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGE_SPANS: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    VARLEN: tl.constexpr,
):
    """Grid: (row_tiles * pairs,), a pair being a request and a head."""
    # Programs run in sections of pairs whose keys and values fit the L2 cache together; within a
    # section the tiles with the longest causal intervals start first.
    program = tl.program_id(0)
    section = program // (pairs_per_section * row_tiles)
    within = program % (pairs_per_section * row_tiles)
    width = tl.minimum(pairs_per_section, pairs - section * pairs_per_section)
    row_start = (row_tiles - 1 - within // width) * BLOCK_M
    pair = section * pairs_per_section + within % width
    request = (pair // NUM_HEADS).to(tl.int64)
    head = (pair % NUM_HEADS).to(tl.int64)

    if VARLEN:
        query_begin = tl.load(query_starts + request).to(tl.int64)
        key_begin = tl.load(key_starts + request).to(tl.int64)
        rows = (tl.load(query_starts + request + 1) - query_begin).to(tl.int32)
        columns = (tl.load(key_starts + request + 1) - key_begin).to(tl.int32)
        if row_start >= rows:
            return
        query += query_begin * stride_qr
        output += query_begin * stride_or
        row_alpha += query_begin * stride_ar
        key += key_begin * stride_kn
        value += key_begin * stride_vn
        if image_columns is not None:
            image_columns += key_begin * stride_icn
        if log_sum_exp is not None:
            log_sum_exp += query_begin
    query += request * stride_qb + head * stride_qh
    output += request * stride_ob + head * stride_oh
    key += request * stride_kb + head // GROUP * stride_kg
    value += request * stride_vb + head // GROUP * stride_vg
    row_alpha += request * stride_ab
    if image_columns is not None:
        image_columns += request * stride_icb
    if bidirectional_spans is not None:
        bidirectional_spans += request * bidirectional_span_count * 2

    offsets = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    row_valid = row_start + offsets < rows
    row_mask = row_valid[:, None] & (dims < HEAD_SIZE)[None, :]
    query += tl.cast(row_start, tl.int64) * stride_qr
    query_tile = tl.load(
        query + offsets[:, None] * stride_qr + dims[None, :] * stride_qd, mask=row_mask, other=0.0
    )  # [BLOCK_M, BLOCK_D]

    if SOFTCAP:
        inner_scale = 2.0 * LOG2_E * scaling / softcap
        logit_scale = softcap * LOG2_E
    else:
        inner_scale = 1.0
        logit_scale = scaling * LOG2_E

    visible_rows = None
    if visible is not None:
        row_numbers = (row_start + offsets).to(tl.int64)
        visible_rows = visible + request * stride_visb + row_numbers * stride_visr  # [BLOCK_M]
        row_lo = tl.zeros([BLOCK_M], tl.int32)
        row_hi = row_lo
        lo = 0
        hi = columns
        full_lo = 0
        full_hi = 0
    else:
        first = 0
        if first_columns is not None:
            first = tl.maximum(tl.load(first_columns + request), 0)
        positions = columns - rows + row_start + offsets
        row_lo, row_hi = _visible_interval(
            positions,
            first,
            columns,
            window,
            bidirectional_spans,
            bidirectional_span_count,
            WINDOWED,
        )
        lo = tl.min(tl.where(row_valid, row_lo, columns), 0)
        hi = tl.max(tl.where(row_valid, row_hi, 0), 0)
        # Tiles inside [full_lo, full_hi) are seen by every row in full.
        full_lo = tl.max(tl.where(row_valid, row_lo, 0), 0)
        full_hi = tl.min(tl.where(row_valid, row_hi, columns), 0)
    full_lo = tl.cdiv(full_lo, BLOCK_N) * BLOCK_N
    full_hi = tl.maximum(full_hi // BLOCK_N * BLOCK_N, full_lo)

    alpha = tl.load(row_alpha + (row_start + offsets) * stride_ar, mask=row_valid, other=1.0)
    span_starts = ()
    span_ends = ()
    steered_rows = 0
    if image_columns is not None or image_spans is not None:
        steered_rows = tl.sum((alpha != 1.0).to(tl.int32), 0)
        if heads is not None:
            steered_rows = tl.where(tl.load(heads + head) != 0, steered_rows, 0)
    if image_spans is not None:
        span_starts, span_ends = _spans_in_registers(
            image_spans + request * image_span_count * 2, image_span_count, IMAGE_SPANS
        )
        meets_image = lo < 0
        for index in tl.static_range(IMAGE_SPANS):
            meets_image |= (span_starts[index] < hi) & (span_ends[index] > lo)
        steered_rows = tl.where(meets_image, steered_rows, 0)

    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    # Branches outside of the loops: rows with alpha = 1 do no work for image columns. The buffers
    # of both branches of an if-else would take shared memory side by side, and the compiler makes
    # one of two opposite conditions; it does not see that these two exclude each other.
    if steered_rows > 0:
        accumulator, largest, total = attend_interval(
            accumulator, largest, total, query_tile, key, value,
            stride_kn, stride_kd, stride_vn, stride_vd,
            row_lo, row_hi, row_valid, lo, hi, full_lo, full_hi, visible_rows, stride_visn,
            alpha * logit_scale, image_columns, stride_icn, span_starts, span_ends,
            logit_scale, inner_scale,
            HEAD_SIZE, BLOCK_N, BLOCK_D, IMAGE_SPANS, True, SOFTCAP,
        )  # fmt: skip
    if steered_rows == 0:
        accumulator, largest, total = attend_interval(
            accumulator, largest, total, query_tile, key, value,
            stride_kn, stride_kd, stride_vn, stride_vd,
            row_lo, row_hi, row_valid, lo, hi, full_lo, full_hi, visible_rows, stride_visn,
            alpha, None, 0, (), (),
            logit_scale, inner_scale,
            HEAD_SIZE, BLOCK_N, BLOCK_D, 0, False, SOFTCAP,
        )  # fmt: skip

    # A row that sees nothing has a sum of 0 and a largest logit of -inf: it gives 0 and -inf.
    accumulator = accumulator / tl.where(total == 0.0, 1.0, total)[:, None]
    output += tl.cast(row_start, tl.int64) * stride_or
    tl.store(
        output + offsets[:, None] * stride_or + dims[None, :] * stride_od,
        accumulator.to(output.dtype.element_ty),
        mask=row_mask,
    )
    if log_sum_exp is not None:
        log_sum_exp += request * stride_lb + head * stride_lh
        natural = tl.where(total == 0.0, float("-inf"), (largest + tl.log2(total)) * LN_2)
        tl.store(log_sum_exp + row_start + offsets, natural, mask=row_valid)
