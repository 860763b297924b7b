"""The online softmax in base 2, shared by the attention kernels."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["LOG2_E", "online_softmax_step"]

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def online_softmax_step(logits, largest, total):
    """Take in one tile of logits, which are in units of log2 and -inf where masked.

    logits [BLOCK_M, BLOCK_N], running maximum and sum [BLOCK_M]
    -> weights [BLOCK_M, BLOCK_N], the factor [BLOCK_M] for what was summed so far, new maximum, new
    sum.
    """
    new_largest = tl.maximum(largest, tl.max(logits, 1))
    # A row that has seen nothing yet keeps -inf: subtracting 0 instead avoids inf - inf.
    finite = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(logits - finite[:, None])
    decay = tl.exp2(largest - finite)
    return weights, decay, new_largest, total * decay + tl.sum(weights, 1)
