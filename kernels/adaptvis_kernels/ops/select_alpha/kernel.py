"""Largest softmax probability per row, in one pass over the logits, and the policy's coefficient.

confidence = exp(max l - logsumexp l) = 1 / sum exp(l - max l)
alpha      = alpha_low if confidence < threshold else alpha_high; 1 where the policy does not apply

Logits [R, V] of any strides; program (row, split) reads ``blocks_per_split`` blocks of BLOCK_V
logits of one row. A block is a tile of groups of GROUP_SIZE neighbours, 16 bytes, which one thread
loads at once: every group keeps its own running maximum and sum, so the loop needs neither a
reduction across threads nor more than one exponential per logit, plus one per group.

NaN must reach the confidence whatever the maximum makes of it: it does so through the sum, to which
exp(NaN) is added. So does +inf, as exp(inf - inf). The running maximum starts at the lowest finite
number, hence logits of -inf add exp(-inf) = 0, and a row of nothing else is known by its sum of 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["combine_splits_kernel", "confidence_kernel"]

_LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _store_result(
    row,
    total,  # sum exp(l - max l)
    confidence,
    alpha,
    threshold,
    alpha_low,
    alpha_high,
    applies,
    THRESHOLD_PER_ROW: tl.constexpr,
    LOW_PER_ROW: tl.constexpr,
    HIGH_PER_ROW: tl.constexpr,
    HAS_APPLIES: tl.constexpr,
):
    # A sum of 0 (only -inf) and of NaN give NaN, for which the comparison below is false.
    value = tl.where(total > 0, tl.div_rn(1.0, total), float("nan"))
    limit = tl.load(threshold + row) if THRESHOLD_PER_ROW else threshold
    low = tl.load(alpha_low + row) if LOW_PER_ROW else alpha_low
    high = tl.load(alpha_high + row) if HIGH_PER_ROW else alpha_high
    chosen = tl.where(value < limit, low, high)
    if HAS_APPLIES:
        chosen = tl.where(tl.load(applies + row) != 0, chosen, 1.0)
    tl.store(confidence + row, value)
    tl.store(alpha + row, chosen)


@triton.jit(do_not_specialize=["blocks_per_split"])
def confidence_kernel(
    logits,
    partial_largest,  # float32 [R, splits], as partial_total: only with IS_SPLIT
    partial_total,
    confidence,  # float32 [R], as alpha
    alpha,
    threshold,  # a number, or float32 [R] with THRESHOLD_PER_ROW, and so on
    alpha_low,
    alpha_high,
    applies,  # bool [R]
    stride_row,
    stride_vocabulary,
    vocabulary_size,
    blocks_per_split,
    THRESHOLD_PER_ROW: tl.constexpr,
    LOW_PER_ROW: tl.constexpr,
    HIGH_PER_ROW: tl.constexpr,
    HAS_APPLIES: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    groups: tl.constexpr = BLOCK_V // GROUP_SIZE
    within = (
        tl.arange(0, groups)[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    )  # [groups, GROUP_SIZE]
    row_logits = logits + row * stride_row
    largest = tl.full([groups], _LOWEST, tl.float32)
    total = tl.zeros([groups], tl.float32)
    first = split * blocks_per_split * BLOCK_V
    last = tl.minimum(first + blocks_per_split * BLOCK_V, vocabulary_size)
    for start in tl.range(first, last, BLOCK_V, num_stages=NUM_STAGES):
        column = start + within
        block = tl.load(
            row_logits + column.to(tl.int64) * stride_vocabulary,
            mask=column < vocabulary_size,
            other=float("-inf"),
        ).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(block, 1))
        added = tl.sum(tl.exp(block - new_largest[:, None]), 1)
        total = total * tl.exp(largest - new_largest) + added
        largest = new_largest
    row_largest = tl.max(largest, 0)
    row_total = tl.sum(total * tl.exp(largest - row_largest), 0)
    if IS_SPLIT:
        slot = row * tl.num_programs(1) + split
        tl.store(partial_largest + slot, row_largest)
        tl.store(partial_total + slot, row_total)
    else:
        _store_result(
            row,
            row_total,
            confidence,
            alpha,
            threshold,
            alpha_low,
            alpha_high,
            applies,
            THRESHOLD_PER_ROW,
            LOW_PER_ROW,
            HIGH_PER_ROW,
            HAS_APPLIES,
        )


@triton.jit(do_not_specialize=["splits"])
def combine_splits_kernel(
    partial_largest,
    partial_total,
    confidence,
    alpha,
    threshold,
    alpha_low,
    alpha_high,
    applies,
    splits,
    THRESHOLD_PER_ROW: tl.constexpr,
    LOW_PER_ROW: tl.constexpr,
    HIGH_PER_ROW: tl.constexpr,
    HAS_APPLIES: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """One program per row merges what its splits found."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, MAX_SPLITS)
    slot = row * splits + split
    largest = tl.load(partial_largest + slot, mask=split < splits, other=_LOWEST)
    total = tl.load(partial_total + slot, mask=split < splits, other=0.0)
    row_total = tl.sum(total * tl.exp(largest - tl.max(largest, 0)), 0)
    _store_result(
        row,
        row_total,
        confidence,
        alpha,
        threshold,
        alpha_low,
        alpha_high,
        applies,
        THRESHOLD_PER_ROW,
        LOW_PER_ROW,
        HIGH_PER_ROW,
        HAS_APPLIES,
    )
