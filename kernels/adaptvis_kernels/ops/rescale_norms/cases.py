"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...cases import Case
from .launch import normalize_projection, rescale_norms
from .passes import normalize_backward, rescale_backward

__all__ = ["compile_cases", "small_cases"]

_ROWS = 8 * 576
_CONSTANTS = (1.22, 0.83, 1e-6)  # max_norm, target_mean, eps


def compile_cases() -> Iterator[tuple[str, Case]]:
    """Both functions, forward and backward, on the ``meta`` device."""
    for hidden_size in (128, 256, 512, 896, 2048, 3584, 4096):
        yield f"{hidden_size}", _both(hidden_size)
    yield "4096, float32", _both(4096, dtype=torch.float32)
    yield "8192, float16", _both(8192, dtype=torch.float16)
    yield "8192, float32", _both(8192, dtype=torch.float32)
    yield "16384, float32", _rescale(16384, dtype=torch.float32)
    yield "1152, clip only, no weight gradient", _frozen(1152)


def small_cases() -> Iterator[tuple[str, Case]]:
    """A few of them, small."""
    yield "96", _both(96, rows=5)
    yield "96, float32", _both(96, rows=5, dtype=torch.float32)
    yield "40, clip only, no weight gradient", _frozen(40, rows=5)


def _tensor(rows: int, hidden_size: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(rows, hidden_size, dtype=dtype, device="meta")


def _rescale(hidden_size: int, *, dtype: torch.dtype, rows: int = _ROWS) -> Case:
    vectors = _tensor(rows, hidden_size, dtype)
    return Case(
        (
            partial(rescale_norms, vectors, target=0.83, clip=None),
            partial(rescale_backward, vectors, vectors, 0.83, True),
        )
    )


def _both(hidden_size: int, *, dtype: torch.dtype = torch.bfloat16, rows: int = _ROWS) -> Case:
    vectors = _tensor(rows, hidden_size, dtype)
    weight = torch.empty(hidden_size, dtype=torch.float32, device="meta")
    return Case(
        (
            *_rescale(hidden_size, dtype=dtype, rows=rows).calls,
            partial(normalize_projection, vectors, weight, max_norm=1.22, target_mean=0.83),
            partial(normalize_backward, vectors, weight, vectors, *_CONSTANTS),
        )
    )


def _frozen(hidden_size: int, *, rows: int = _ROWS) -> Case:
    vectors = _tensor(rows, hidden_size, torch.bfloat16)
    weight = torch.empty(hidden_size, dtype=torch.bfloat16, device="meta")
    return Case(
        (
            partial(rescale_norms, vectors, target=None, clip=1.22),
            partial(rescale_backward, vectors, vectors, 1.22, False),
            partial(normalize_backward, vectors, weight, vectors, *_CONSTANTS, need_weight=False),
        )
    )
