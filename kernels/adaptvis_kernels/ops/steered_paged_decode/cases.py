"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...cases import Case
from .dense import steered_decode
from .launch import steered_paged_decode

__all__ = ["compile_cases", "small_cases"]

_TAIL = 40


def compile_cases() -> Iterator[tuple[str, Case]]:
    """Every key of the configurations, on the ``meta`` device.

    "all options" is what transformers models with padding run: mask, columns, heads.
    """
    half, full = torch.float16, torch.float32
    yield "head 64, 1 row, paged, spans", _paged(16, 8, 64, spans=True)
    yield "head 128, 1 row, paged, split", _paged(32, 32, 128, batch=1)
    yield "head 80, 1 row, small blocks, columns", _paged(32, 32, 80, block_size=16)
    yield "head 256, GQA 2, 1 row, window, softcap", _paged(8, 4, 256, window=1024, softcap=50.0)
    yield "head 64, GQA 7, tail, paged", _paged(14, 2, 64, rows=_TAIL)
    yield "head 128, GQA 7, tail, paged", _paged(28, 4, 128, rows=_TAIL, spans=True)
    yield "head 256, GQA 2, tail, window", _paged(8, 4, 256, rows=_TAIL, window=1024)
    yield "head 128, tail, paged, mask", _paged(32, 8, 128, rows=_TAIL, mask=True)
    yield "head 128, GQA 4, 1 row, dense, float16", _dense(32, 8, 128, dtype=half)
    for size in (64, 128, 256):
        softcap = 50.0 if size == 256 else None
        masked = partial(_dense, 8, 4, size, mask=True, softcap=softcap)
        yield f"head {size}, 1 row, all options", masked()
        yield f"head {size}, tail, all options", masked(rows=_TAIL)
        yield f"head {size}, tail, float32", _paged(8, 8, size, rows=_TAIL, dtype=full)
        yield f"head {size}, tail, all options, float32", masked(rows=_TAIL, dtype=full)


def small_cases() -> Iterator[tuple[str, Case]]:
    """A few of them, small."""
    tiny = partial(_paged, 4, 2, 32, batch=2, block_size=16, columns=48)
    yield "1 row, paged, spans", tiny(spans=True)
    yield "3 rows, paged, window, softcap", tiny(rows=3, window=9, softcap=50.0)
    masked = partial(_dense, 4, 2, 32, rows=3, columns=40, mask=True)
    yield "3 rows, all options", masked()
    yield "3 rows, all options, float32", masked(dtype=torch.float32)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _paged(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    rows: int = 1,
    batch: int = 16,
    block_size: int = 64,
    spans: bool = False,
    mask: bool = False,
    columns: int = 4096,
    window: int | None = None,
    softcap: float | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Case:
    cache = _empty(columns // 4, block_size, groups, head_size, dtype=dtype)
    unequal = rows > 1
    call = partial(
        steered_paged_decode,
        _empty(batch * rows, num_heads, head_size, dtype=dtype),
        cache,
        cache,
        block_table=_empty(batch, columns // block_size, dtype=torch.int32),
        sequence_lengths=_empty(batch, dtype=torch.int32),
        row_alpha=_empty(batch * rows, dtype=torch.float32),
        row_starts=_empty(batch + 1, dtype=torch.int32) if unequal else None,
        max_rows=rows if unequal else None,
        image_columns=None if spans else _empty(batch, columns, dtype=torch.bool),
        image_spans=_empty(batch, 2, 2, dtype=torch.int32) if spans else None,
        visible=_empty(batch * rows, columns, dtype=torch.bool) if mask else None,
        window=window,
        softcap=softcap,
    )
    return Case((call,))


def _dense(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    rows: int = 1,
    columns: int = 704,
    dtype: torch.dtype = torch.bfloat16,
    mask: bool = False,
    softcap: float | None = None,
) -> Case:
    batch = 2
    key = _empty(batch, groups, columns, head_size, dtype=dtype)
    call = partial(
        steered_decode,
        _empty(batch, rows, num_heads, head_size, dtype=dtype).transpose(1, 2),
        key,
        key,
        row_alpha=_empty(batch, rows, dtype=torch.float32),
        image_columns=_empty(batch, columns, dtype=torch.bool),
        heads=_empty(num_heads, dtype=torch.bool),
        visible=_empty(batch, rows, columns, dtype=torch.bool) if mask else None,
        softcap=softcap,
        return_log_sum_exp=True,
    )
    return Case((call,))
