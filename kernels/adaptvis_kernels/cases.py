"""Calls of the launchers on shapes alone: what is compiled ahead of time, and checked on a device.

Each kernel's ``cases.py`` lists its own: ``compile_cases`` covers every key of its configurations
at the shapes of real models, ``small_cases`` the same code at shapes for Triton's interpreter.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

__all__ = ["OPS", "Case", "cases_of"]

OPS = (
    "steered_paged_decode",
    "steered_prefill",
    "select_alpha",
    "rescale_norms",
    "image_attention",
)


@dataclass(frozen=True)
class Case:
    """Launcher calls with tensors of the ``meta`` device, which hold shapes only.

    Calling the case makes them, which is possible while launches are recorded.
    """

    calls: tuple[partial[Any], ...]

    def __call__(self) -> None:
        for call in self.calls:
            call()


def cases_of(op: str, *, small: bool = False) -> Iterator[tuple[str, Case]]:
    """Name and case, of the kernel ``op``."""
    module = importlib.import_module(f"{__package__}.ops.{op}.cases")
    yield from module.small_cases() if small else module.compile_cases()
