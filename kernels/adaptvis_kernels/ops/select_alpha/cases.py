"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...cases import Case
from .launch import select_alpha

__all__ = ["compile_cases", "small_cases"]

_LLAVA, _QWEN, _GEMMA = 32064, 152064, 262208


def compile_cases() -> Iterator[tuple[str, Case]]:
    """Named calls of the launchers on the ``meta`` device."""
    yield "1 row, 32k, split", _select(1, _LLAVA)
    yield "16 rows, 262k, split, per request", _select(16, _GEMMA, per_row=True)
    yield "512 rows, 152k, one pass", _select(512, _QWEN)
    yield "512 rows, 152k, one pass, per request", _select(512, _QWEN, per_row=True)
    yield "512 rows, 50257, one pass, unaligned", _select(512, 50257)
    yield "16 rows, 152k, split, float16", _select(16, _QWEN, dtype=torch.float16)
    yield "1 row, 32k, split, float32", _select(1, _LLAVA, dtype=torch.float32)
    yield "512 rows, 152k, one pass, float32", _select(512, _QWEN, dtype=torch.float32)
    yield "16 rows, 32k, any strides", _select(16, _LLAVA, transposed=True)


def small_cases() -> Iterator[tuple[str, Case]]:
    """A few of them, small."""
    yield "2 rows, 300", _select(2, 300)
    yield "4 rows, 130, per request, any strides", _select(4, 130, per_row=True, transposed=True)
    yield "4 rows, 300, float32", _select(4, 300, dtype=torch.float32)


def _select(
    rows: int,
    vocabulary_size: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    per_row: bool = False,
    transposed: bool = False,
) -> Case:
    shape = (vocabulary_size, rows) if transposed else (rows, vocabulary_size)
    logits = torch.empty(shape, dtype=dtype, device="meta")
    one_per_row = torch.empty(rows, dtype=torch.float32, device="meta")
    call = partial(
        select_alpha,
        logits.t() if transposed else logits,
        threshold=one_per_row if per_row else 0.4,
        alpha_low=one_per_row if per_row else 0.5,
        alpha_high=one_per_row if per_row else 1.5,
        applies=torch.empty(rows, dtype=torch.bool, device="meta") if per_row else None,
    )
    return Case((call,))
