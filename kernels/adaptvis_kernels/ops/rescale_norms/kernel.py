"""Rescaled norms, forward and backward: a row of D numbers is read once and kept in registers.

rescale_norms         y = x * s,  s = limit / |x| where the norm changes, else 1
normalize_projection  u = x * w,  r = (mean(x^2) + eps)^(-1/2),  z = r * u
                      y = target_mean * z * min(1, max_norm / |z|)

Inputs are [N, D] with last stride 1 and any row stride, outputs contiguous. A program takes tiles
of [BLOCK_ROWS, BLOCK_D], BLOCK_D the power of two from D up. Everything is computed in float32;
z is not rounded before its norm is taken. The README derives the gradients.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "normalize_backward_kernel",
    "normalize_forward_kernel",
    "rescale_backward_kernel",
    "rescale_forward_kernel",
]


@triton.jit
def _tile(
    block,
    num_rows,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows [BLOCK_ROWS, 1] in int64, columns [1, BLOCK_D], and which elements exist."""
    rows = (block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)[None, :]
    return rows, columns, (rows < num_rows) & (columns < HIDDEN_SIZE)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def _add_triples(a, b, c, d, e, f):
    return a + d, b + e, c + f


@triton.jit
def _rescaling(square_sum, limit, ALWAYS: tl.constexpr):
    """Norm, whether it changes, and the factor: to ``limit`` always, or only where it is above."""
    norm = tl.sqrt_rn(square_sum)
    changes = norm > 0 if ALWAYS else norm > limit
    return norm, changes, tl.where(changes, tl.div_rn(limit, norm), 1.0)


@triton.jit
def rescale_forward_kernel(
    embeddings,
    output,
    stride_row,
    num_rows,
    limit,
    ALWAYS: tl.constexpr,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows, columns, exists = _tile(tl.program_id(0), num_rows, HIDDEN_SIZE, BLOCK_ROWS, BLOCK_D)
    x = tl.load(embeddings + rows * stride_row + columns, mask=exists, other=0.0).to(tl.float32)
    _, _, factor = _rescaling(tl.sum(x * x, 1), limit, ALWAYS)
    y = x * factor[:, None]  # [BLOCK_ROWS, BLOCK_D]
    tl.store(output + rows * HIDDEN_SIZE + columns, y, mask=exists)


@triton.jit
def rescale_backward_kernel(
    embeddings,
    output_gradient,
    gradient,
    stride_row,
    stride_gradient_row,
    num_rows,
    limit,
    ALWAYS: tl.constexpr,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows, columns, exists = _tile(tl.program_id(0), num_rows, HIDDEN_SIZE, BLOCK_ROWS, BLOCK_D)
    x = tl.load(embeddings + rows * stride_row + columns, mask=exists, other=0.0).to(tl.float32)
    dy = tl.load(output_gradient + rows * stride_gradient_row + columns, mask=exists, other=0.0).to(
        tl.float32
    )
    # One reduction of several values costs as many barriers as one of a single value.
    square_sum, along = tl.reduce((x * x, x * dy), 1, _add_pairs)
    norm, changes, factor = _rescaling(square_sum, limit, ALWAYS)
    # Divided twice, since the square of a small norm may underflow.
    radial = tl.where(changes, along / norm / norm, 0.0)
    dx = factor[:, None] * (dy - radial[:, None] * x)  # [BLOCK_ROWS, BLOCK_D]
    tl.store(gradient + rows * HIDDEN_SIZE + columns, dx, mask=exists)


@triton.jit
def normalize_forward_kernel(
    features,
    weight,
    output,
    stride_row,
    num_rows,
    max_norm,
    target_mean,
    eps,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows, columns, exists = _tile(tl.program_id(0), num_rows, HIDDEN_SIZE, BLOCK_ROWS, BLOCK_D)
    x = tl.load(features + rows * stride_row + columns, mask=exists, other=0.0).to(tl.float32)
    w = tl.load(weight + columns, mask=columns < HIDDEN_SIZE, other=0.0).to(tl.float32)
    u = x * w  # [BLOCK_ROWS, BLOCK_D]
    square_sum, weighted_sum = tl.reduce((x * x, u * u), 1, _add_pairs)
    root = tl.rsqrt(square_sum / HIDDEN_SIZE + eps)
    norm = root * tl.sqrt_rn(weighted_sum)
    factor = target_mean * root * tl.where(norm > max_norm, max_norm / norm, 1.0)
    tl.store(output + rows * HIDDEN_SIZE + columns, u * factor[:, None], mask=exists)


@triton.jit(do_not_specialize=["num_blocks"])
def normalize_backward_kernel(
    features,
    weight,
    output_gradient,
    gradient,  # [N, D], only with COMPUTE_DX
    weight_gradients,  # float32 [programs, D], one partial sum each, only with COMPUTE_DWEIGHT
    stride_row,
    stride_gradient_row,
    num_rows,
    num_blocks,
    max_norm,
    target_mean,
    eps,
    COMPUTE_DX: tl.constexpr,
    COMPUTE_DWEIGHT: tl.constexpr,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Programs stay and take every num_programs-th block of rows, so that few sums remain."""
    program = tl.program_id(0)
    all_columns = tl.arange(0, BLOCK_D)
    w = tl.load(weight + all_columns, mask=all_columns < HIDDEN_SIZE, other=0.0).to(tl.float32)
    w = w[None, :]
    weight_sum = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    for block in tl.range(program, num_blocks, tl.num_programs(0), num_stages=NUM_STAGES):
        rows, columns, exists = _tile(block, num_rows, HIDDEN_SIZE, BLOCK_ROWS, BLOCK_D)
        x = tl.load(features + rows * stride_row + columns, mask=exists, other=0.0).to(tl.float32)
        dy = tl.load(
            output_gradient + rows * stride_gradient_row + columns, mask=exists, other=0.0
        ).to(tl.float32)
        u = x * w  # [BLOCK_ROWS, BLOCK_D]
        square_sum, weighted_sum, along = tl.reduce((x * x, u * u, u * dy), 1, _add_triples)
        root = tl.rsqrt(square_sum / HIDDEN_SIZE + eps)
        length = tl.sqrt_rn(weighted_sum)
        clipped = root * length > max_norm
        factor = target_mean * tl.where(clipped, max_norm / length, root)
        radial = tl.where(clipped, along / length / length, 0.0)
        through_root = tl.where(
            clipped, 0.0, target_mean * root * root * root * along / HIDDEN_SIZE
        )
        du = factor[:, None] * (dy - radial[:, None] * u)  # [BLOCK_ROWS, BLOCK_D]
        if COMPUTE_DX:
            dx = w * du - through_root[:, None] * x
            tl.store(gradient + rows * HIDDEN_SIZE + columns, dx, mask=exists)
        if COMPUTE_DWEIGHT:
            weight_sum += x * du
    if COMPUTE_DWEIGHT:
        tl.store(
            weight_gradients + program * HIDDEN_SIZE + all_columns,
            tl.sum(weight_sum, 0),
            mask=all_columns < HIDDEN_SIZE,
        )
