"""How every kernel of this package is launched: on the device at hand, or only recorded.

Recording serves compilation ahead of time: a launcher called on tensors of the ``meta`` device
within :func:`record_launches` chooses its configuration as ever, and nothing runs. So what is
compiled and checked without a GPU is what is launched on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import triton

__all__ = [
    "Launch",
    "architecture_of",
    "is_interpreted",
    "is_recording",
    "launch",
    "multiprocessors_of",
    "record_launches",
]


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, its grid, its arguments by name, and its compile options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass
class _Recording:
    architecture: str
    launches: list[Launch] = field(default_factory=list)


_recording: ContextVar[_Recording | None] = ContextVar("adaptvis_kernels_recording", default=None)


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` at import)."""
    return bool(triton.knobs.runtime.interpret)


def is_recording() -> bool:
    """Whether launches are being recorded instead of run."""
    return _recording.get() is not None


@contextmanager
def record_launches(architecture: str) -> Iterator[list[Launch]]:
    """Collect launches as if for ``architecture`` ("sm_90", "gfx942") instead of running them."""
    recording = _Recording(architecture)
    token = _recording.set(recording)
    try:
        yield recording.launches
    finally:
        _recording.reset(token)


def architecture_of(device: torch.device) -> str:
    """The architecture's name, as "sm_90" or "gfx942"; "interpreter" on a CPU."""
    recording = _recording.get()
    if recording is not None:
        return recording.architecture
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def multiprocessors_of(device: torch.device) -> int:
    """How many multiprocessors (compute units) run programs side by side."""
    if device.type != "cuda":
        return 108
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *,
    device: torch.device,
    num_warps: int,
    num_stages: int,
    **arguments: Any,
) -> None:
    """Launch ``kernel`` over ``grid`` on ``device``; an empty grid launches nothing."""
    if 0 in grid:
        return
    recording = _recording.get()
    if recording is not None:
        recording.launches.append(Launch(kernel, grid, arguments, num_warps, num_stages))
        return
    # Triton launches on the current device, which need not be the tensors' own.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](num_warps=num_warps, num_stages=num_stages, **arguments)
