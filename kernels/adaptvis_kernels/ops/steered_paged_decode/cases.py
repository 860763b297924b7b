"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from .dense import steered_decode
from .launch import steered_paged_decode

__all__ = ["compile_cases"]


def compile_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Named calls of the launchers on the ``meta`` device."""
    yield "head 64, 1 row, paged, spans", partial(_paged, 16, 8, 64, rows=1, spans=True)
    yield (
        "head 80, 1 row, small blocks, columns",
        partial(_paged, 32, 32, 80, rows=1, block_size=16),
    )
    yield "head 128, 1 row, paged, split", partial(_paged, 32, 32, 128, rows=1, batch=1)
    yield "head 128, GQA 7, tail, paged", partial(_paged, 28, 4, 128, rows=40, spans=True)
    yield (
        "head 128, GQA 4, 1 row, dense, float16",
        partial(_dense, 32, 8, 128, rows=1, dtype=torch.float16),
    )
    yield "head 128, tail, dense, explicit mask", partial(_dense, 32, 32, 128, rows=40, mask=True)
    yield (
        "head 256, GQA 2, 1 row, window, softcap",
        partial(_paged, 8, 4, 256, rows=1, window=1024, softcap=50.0),
    )
    yield "head 256, GQA 2, tail, window", partial(_paged, 8, 4, 256, rows=40, window=1024)
    yield "head 128, tail, float32", partial(_dense, 8, 8, 128, rows=40, dtype=torch.float32)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _paged(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    rows: int,
    batch: int = 16,
    block_size: int = 64,
    spans: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> object:
    cache = _empty(1024, block_size, groups, head_size, dtype=torch.bfloat16)
    unequal = rows > 1
    return steered_paged_decode(
        _empty(batch * rows, num_heads, head_size, dtype=torch.bfloat16),
        cache,
        cache,
        block_table=_empty(batch, 4096 // block_size, dtype=torch.int32),
        sequence_lengths=_empty(batch, dtype=torch.int32),
        row_alpha=_empty(batch * rows, dtype=torch.float32),
        row_starts=_empty(batch + 1, dtype=torch.int32) if unequal else None,
        max_rows=rows if unequal else None,
        image_columns=None if spans else _empty(batch, 4096, dtype=torch.bool),
        image_spans=_empty(batch, 2, 2, dtype=torch.int32) if spans else None,
        window=window,
        softcap=softcap,
    )


def _dense(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    rows: int,
    dtype: torch.dtype = torch.bfloat16,
    mask: bool = False,
) -> object:
    batch, columns = 2, 704
    key = _empty(batch, groups, columns, head_size, dtype=dtype)
    return steered_decode(
        _empty(batch, rows, num_heads, head_size, dtype=dtype).transpose(1, 2),
        key,
        key,
        row_alpha=_empty(batch, rows, dtype=torch.float32),
        image_columns=_empty(batch, columns, dtype=torch.bool),
        heads=_empty(num_heads, dtype=torch.bool),
        visible=_empty(batch, rows, columns, dtype=torch.bool) if mask else None,
        return_log_sum_exp=True,
    )
