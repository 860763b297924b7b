"""Whether a device can be served, asked before the first launch: its architecture, and a trial."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configs import is_supported
from .launching import architecture_of, launch

__all__ = ["supports", "try_launch"]


def supports(device: torch.device) -> bool:
    """Whether the shipped configurations fit this CUDA or ROCm device."""
    return device.type == "cuda" and is_supported(architecture_of(device))


@triton.jit
def _count_kernel(output: tl.tensor) -> None:
    index = tl.arange(0, 16)
    tl.store(output + index, index)


def try_launch(device: torch.device) -> None:
    """Compile and launch a kernel of one store; raises whatever Triton raises where it cannot.

    Nothing is read back, so a CUDA graph may be captured meanwhile.
    """
    output = torch.empty(16, dtype=torch.int32, device=device)
    launch(_count_kernel, (1,), device=device, num_warps=1, num_stages=1, output=output)
