"""Which columns are image tokens, as kernels read it: spans, or one byte per column."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_dtype, check_shape, require

__all__ = [
    "check_image_positions",
    "columns_of_spans",
    "inside_spans",
    "load_spans",
]


def check_image_positions(
    columns: Tensor | None, spans: Tensor | None, batch: int, width: int | str
) -> None:
    """At most one of columns (bool [B, N]) and spans (int32 [B, S, 2]) is given, and fits."""
    require(
        columns is None or spans is None,
        "image_columns and image_spans say the same thing: give one of them, got both",
    )
    if columns is not None:
        check_shape("image_columns", columns, (batch, width))
        check_dtype("image_columns", columns, torch.bool)
    if spans is not None:
        check_shape("image_spans", spans, (batch, "spans", 2))
        check_dtype("image_spans", spans, torch.int32)


def columns_of_spans(spans: Tensor, width: int) -> Tensor:
    """Half-open spans int32 [B, S, 2] as bool [B, width]; for references and tests."""
    column = torch.arange(width, device=spans.device)
    inside = (column >= spans[..., :1]) & (column < spans[..., 1:])
    return inside.any(dim=1)


@triton.jit
def load_spans(spans, count, BLOCK_S: tl.constexpr):
    """Starts and ends [BLOCK_S] of ``count`` half-open (start, end) pairs; the rest are empty."""
    index = tl.arange(0, BLOCK_S)
    starts = tl.load(spans + 2 * index, mask=index < count, other=0)
    ends = tl.load(spans + 2 * index + 1, mask=index < count, other=0)
    return starts, ends


@triton.jit
def inside_spans(columns, starts, ends):
    """Whether each of ``columns`` [BLOCK_N] lies in one of the spans [BLOCK_S].

    Compares all pairs at once: an inner loop would keep the compiler from pipelining the loop over
    columns, and with it from hiding the latency of the key loads.
    """
    inside = (columns[:, None] >= starts[None, :]) & (columns[:, None] < ends[None, :])
    return tl.max(inside.to(tl.int32), 1) != 0
