"""Calls of the launcher that cover its configurations and flags, for compilation ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...cases import Case
from .launch import image_attention

__all__ = ["compile_cases", "small_cases"]


def compile_cases() -> Iterator[tuple[str, Case]]:
    """Every key of the configurations, with a mask, on the ``meta`` device.

    A mask takes the place of positions, padding and window, and more registers than they do.
    """
    half = torch.float16
    full = torch.float32
    yield "one row, head size 128", _call(128)
    yield "one row, head size 80, alpha and heads", _call(80, alpha=True, heads=True, first=True)
    yield "one row, head size 256, window and softcap", _call(256, window=1024, softcap=50.0)
    yield (
        "48 rows, head size 128, float16",
        _call(128, rows=48, dtype=half, alpha=True, positions=True),
    )
    yield (
        "256 rows, head size 128, all but a mask",
        _call(128, rows=256, alpha=True, heads=True, window=1024, softcap=50.0, positions=True),
    )
    for size in (64, 128, 256):
        softcap = 50.0 if size == 256 else None
        for rows in (1, 48, 256):
            yield (
                f"{rows} rows, head size {size}, mask, alpha, heads",
                _call(size, rows=rows, mask=True, alpha=True, heads=True, softcap=softcap),
            )
        yield (
            f"head size {size}, float32, mask, alpha, heads",
            _call(size, rows=48, dtype=full, mask=True, alpha=True, heads=True),
        )
    # Sizes of 1 become constants.
    yield "every size 1", _call(1, batch=1, num_heads=1, width=1, slots=1, mask=True)


def small_cases() -> Iterator[tuple[str, Case]]:
    """A few of them, small."""
    tiny = partial(_call, 32, num_heads=4, width=40, slots=12)
    yield "1 row, padding, window", tiny(first=True, window=9)
    yield "3 rows, alpha, heads, positions", tiny(rows=3, alpha=True, heads=True, positions=True)
    yield "3 rows, mask, float32", tiny(rows=3, mask=True, dtype=torch.float32)
    yield "every size 1", _call(1, batch=1, num_heads=1, width=1, slots=1, mask=True)


def _call(
    size: int,
    *,
    batch: int = 2,
    num_heads: int = 32,
    rows: int = 1,
    width: int = 4096,
    slots: int = 576,
    dtype: torch.dtype = torch.bfloat16,
    alpha: bool = False,
    heads: bool = False,
    mask: bool = False,
    first: bool = False,
    positions: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Case:
    def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    call = partial(
        image_attention,
        new(batch, num_heads, rows, size, dtype=dtype),
        new(batch, num_heads, width, size, dtype=dtype),
        image_positions=new(batch, slots, dtype=torch.int32),
        row_positions=new(batch, rows, dtype=torch.int64) if positions else None,
        first_columns=new(batch, dtype=torch.int32) if first else None,
        visible=new(batch, rows, width, dtype=torch.bool) if mask else None,
        window=window,
        row_alpha=new(batch, rows, dtype=torch.float32) if alpha else None,
        heads=new(num_heads, dtype=torch.bool) if heads else None,
        softcap=softcap,
    )
    return Case((call,))
