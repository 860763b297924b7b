"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...cases import Case
from .launch import steered_prefill, steered_prefill_varlen

__all__ = ["compile_cases", "small_cases"]


def compile_cases() -> Iterator[tuple[str, Case]]:
    """Every key of the configurations, on the ``meta`` device.

    "all options" is what transformers models run: mask, columns, heads.
    """
    half, full = torch.float16, torch.float32
    yield "head 32, columns, float16", _dense(4, 4, 32, dtype=half)
    yield "head 64, GQA 7, 2 spans, padding", _dense(14, 2, 64, spans=2, padding=True)
    yield "head 80, columns, padding", _dense(32, 32, 80, padding=True)
    yield "head 128, 1 span, padding", _dense(32, 32, 128, spans=1, padding=True)
    yield "head 128, GQA 7, varlen, 4 spans", _varlen(28, 4, 128, spans=4)
    yield (
        "head 256, bidirectional, window",
        _dense(8, 4, 256, spans=1, bidirectional=True, window=1024),
    )
    yield "head 64, tail, columns", _dense(32, 32, 64, rows=40)
    yield "head 96, tail, columns", _dense(32, 32, 96, rows=40)
    yield (
        "head 256, tail, window, softcap",
        _dense(8, 4, 256, rows=40, window=4096, softcap=50.0),
    )
    for size in (64, 128, 256):
        softcap = 50.0 if size == 256 else None
        masked = partial(_dense, 8, 4, size, mask=True, softcap=softcap)
        yield f"head {size}, all options", masked()
        yield f"head {size}, tail, all options", masked(rows=40)
        yield f"head {size}, float32", _dense(8, 4, size, dtype=full, padding=True)
        yield f"head {size}, all options, float32", masked(dtype=full)


def small_cases() -> Iterator[tuple[str, Case]]:
    """A few of them, small."""
    tiny = partial(_dense, 4, 2, 32, rows=24, columns=24)
    yield "2 spans, padding", tiny(spans=2, padding=True)
    yield "bidirectional, window, softcap", tiny(spans=1, bidirectional=True, window=7, softcap=9.0)
    yield "tail, all options", _dense(4, 2, 32, rows=5, columns=24, mask=True)
    yield "all options, float32", tiny(mask=True, dtype=torch.float32)
    yield "varlen, 2 spans", _varlen(4, 2, 32, spans=2, batch=2, tokens=40, max_rows=20)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _dense(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    rows: int = 704,
    columns: int = 704,
    spans: int = 0,
    padding: bool = False,
    mask: bool = False,
    bidirectional: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Case:
    batch = 2
    key = _empty(batch, groups, columns, head_size, dtype=dtype)
    span = partial(_empty, batch, dtype=torch.int32)
    call = partial(
        steered_prefill,
        _empty(batch, rows, num_heads, head_size, dtype=dtype).transpose(1, 2),
        key,
        key,
        row_alpha=_empty(batch, rows, dtype=torch.float32),
        image_columns=None if spans else _empty(batch, columns, dtype=torch.bool),
        image_spans=span(spans, 2) if spans else None,
        first_columns=span() if padding else None,
        bidirectional_spans=span(2, 2) if bidirectional else None,
        visible=_empty(batch, rows, columns, dtype=torch.bool) if mask else None,
        window=window,
        softcap=softcap,
        heads=_empty(num_heads, dtype=torch.bool),
        return_log_sum_exp=True,
    )
    return Case((call,))


def _varlen(
    num_heads: int,
    groups: int,
    head_size: int,
    *,
    spans: int,
    batch: int = 8,
    tokens: int = 4096,
    max_rows: int = 1024,
) -> Case:
    key = _empty(tokens, groups, head_size, dtype=torch.bfloat16)
    starts = _empty(batch + 1, dtype=torch.int32)
    call = partial(
        steered_prefill_varlen,
        _empty(tokens, num_heads, head_size, dtype=torch.bfloat16),
        key,
        key,
        query_starts=starts,
        key_starts=starts,
        max_rows=max_rows,
        row_alpha=_empty(tokens, dtype=torch.float32),
        image_spans=_empty(batch, spans, 2, dtype=torch.int32),
    )
    return Case((call,))
