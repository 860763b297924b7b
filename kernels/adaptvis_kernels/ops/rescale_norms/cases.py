"""Calls that are compiled ahead of time for every target; tensors hold shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from .launch import normalize_projection, rescale_norms
from .passes import normalize_backward, rescale_backward

__all__ = ["compile_cases"]

_ROWS = 8 * 576
_CONSTANTS = (1.22, 0.83, 1e-6)  # max_norm, target_mean, eps


def compile_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Named calls of the launchers on the ``meta`` device."""
    for hidden_size in (128, 256, 512, 896, 2048, 3584, 4096):
        yield f"{hidden_size}", partial(_both, hidden_size)
    yield "4096, float32", partial(_both, 4096, dtype=torch.float32)
    yield "8192, float16", partial(_both, 8192, dtype=torch.float16)
    yield "8192, float32", partial(_both, 8192, dtype=torch.float32)
    yield "16384, float32", partial(_rescale, 16384, dtype=torch.float32)
    yield "1152, clip only, no weight gradient", partial(_frozen, 1152)


def _rows(hidden_size: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(_ROWS, hidden_size, dtype=dtype, device="meta")


def _rescale(hidden_size: int, *, dtype: torch.dtype) -> None:
    rows = _rows(hidden_size, dtype)
    rescale_norms(rows, target=0.83, clip=None)
    rescale_backward(rows, rows, 0.83, True)


def _both(hidden_size: int, *, dtype: torch.dtype = torch.bfloat16) -> None:
    _rescale(hidden_size, dtype=dtype)
    rows = _rows(hidden_size, dtype)
    weight = torch.empty(hidden_size, dtype=torch.float32, device="meta")
    normalize_projection(rows, weight, max_norm=1.22, target_mean=0.83)
    normalize_backward(rows, weight, rows, *_CONSTANTS)


def _frozen(hidden_size: int) -> None:
    rows = _rows(hidden_size, torch.bfloat16)
    weight = torch.empty(hidden_size, dtype=torch.bfloat16, device="meta")
    rescale_norms(rows, target=None, clip=1.22)
    rescale_backward(rows, rows, 1.22, False)
    normalize_backward(rows, weight, rows, *_CONSTANTS, need_weight=False)
