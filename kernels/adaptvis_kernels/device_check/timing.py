"""Medians on a GPU, and the two ceilings they are compared with."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

__all__ = ["Call", "Ceilings", "Timing", "measure", "measure_ceilings", "peak_bytes", "sets_of"]

Call = Callable[[], Any]

# Inputs that together fill several level-2 caches, so that no cache is what is measured.
ROTATED_BYTES = 256 * 2**20
MOST_SETS = 16
# One timed region lasts about this long, so that the resolution of events does not matter.
_REGION_MILLISECONDS = 2.0
_MOST_CALLS = 256
_REPEATS = (5, 30)


@dataclass(frozen=True)
class Timing:
    """samples: microseconds per call. method: "graph", "events" or, in a smoke run, "host"."""

    samples: tuple[float, ...]
    method: str

    @property
    def median(self) -> float:
        return median(self.samples)


@dataclass(frozen=True)
class Ceilings:
    """Measured here: bytes per second of a copy (read and written), FLOP/s in bfloat16."""

    copy: float
    matmul: float

    def floor(self, moved: int, operations: int) -> tuple[float, str]:
        """The least possible seconds, and what bounds them."""
        times = {"memory": moved / self.copy, "arithmetic": operations / self.matmul}
        bound = max(times, key=times.__getitem__)
        return times[bound], bound


def sets_of(bytes_per_set: int, device: torch.device) -> int:
    """How many input sets to rotate among."""
    if device.type != "cuda":
        return 1
    return max(1, min(MOST_SETS, -(-ROTATED_BYTES // max(bytes_per_set, 1))))


def measure(calls: Sequence[Call], device: torch.device) -> Timing:
    """Time ``calls`` in turn, which do the same on different inputs and have run before.

    Short calls are captured in a CUDA graph, whose replays have no gaps between launches; what
    cannot be captured, and what is long anyway, is timed by events around plain calls.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        calls[0]()
        return Timing((1e6 * (time.perf_counter() - start),), "host")
    for call in calls:
        call()
    estimate = _milliseconds(lambda: [call() for call in calls]) / len(calls)
    count = max(len(calls), min(_MOST_CALLS, int(_REGION_MILLISECONDS / max(estimate, 1e-3))))
    count -= count % len(calls)

    def region() -> None:
        for index in range(count):
            calls[index % len(calls)]()

    graph = _capture(region) if estimate < _REGION_MILLISECONDS else None
    run = region if graph is None else graph.replay
    run()
    once = _milliseconds(run)
    repeats = max(_REPEATS[0], min(_REPEATS[1], int(100 / max(once, 1e-3))))
    samples = tuple(1e3 * _milliseconds(run) / count for _ in range(repeats))
    return Timing(samples, "events" if graph is None else "graph")


def _capture(region: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    # A compiled kernel collected during the capture would unload its module and end the capture.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            region()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # Whatever a library may raise because it cannot be captured.
        torch.cuda.synchronize()
        return None
    finally:
        if collecting:
            gc.enable()
    return graph


def _milliseconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """The most memory that one call holds beyond what was held before."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    output = call()
    torch.cuda.synchronize()
    del output
    return torch.cuda.max_memory_allocated(device) - before


def measure_ceilings(device: torch.device, *, smoke: bool) -> Ceilings:
    """A device-to-device copy of 1 GiB, and a product of two 8192 x 8192 matrices in bfloat16."""
    elements, size = (2**12, 64) if smoke else (2**29, 8192)
    source, left, right = (
        _random(*shape, device=device) for shape in ((elements,), (size, size), (size, size))
    )
    target, result = torch.empty_like(source), torch.empty_like(left)
    copy = measure([partial(target.copy_, source)], device)
    product = measure([partial(torch.matmul, left, right, out=result)], device)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(1e6 * moved / copy.median, 1e6 * 2 * size**3 / product.median)


def _random(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.bfloat16)
