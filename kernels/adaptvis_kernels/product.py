"""The matrix product of two tiles, in the inputs' own precision, accumulated in float32."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["product"]

# Triton's interpreter keeps bfloat16 as bare bits and would multiply those.
_WIDENS = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def product(left, right, accumulator):
    """accumulator + left @ right: [M, K], [K, N], [M, N] float32. No tf32 for float32 inputs."""
    if _WIDENS:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, accumulator, input_precision="ieee")
