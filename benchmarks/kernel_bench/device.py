"""Which device a run uses, or one sentence on why there is none."""

from __future__ import annotations

import sys
from typing import NoReturn

import torch
from adaptvis_kernels import device_check
from adaptvis_kernels.device_check.machine import device_name

__all__ = ["choose_device", "device_name", "refuse"]


def refuse(message: str) -> NoReturn:
    """One sentence, and exit status 2."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def choose_device(*, smoke: bool) -> torch.device:
    """A GPU; for a smoke run in Triton's interpreter the CPU."""
    try:
        return device_check.choose_device(smoke=smoke)
    except device_check.NoDevice as problem:
        refuse(str(problem))
