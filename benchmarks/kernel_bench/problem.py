"""One comparison: several variants of the same work, each checked and then timed twice."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from adaptvis_kernels.device_check.correctness import poison
from adaptvis_kernels.device_check.timing import Call, Ceilings, Timing, measure, peak_bytes


class Refused(Exception):
    """A baseline does not do this; the text says why."""


@dataclass(frozen=True)
class Variant:
    """One way of doing the work.

    calls: gives one call per input set, ready to run.
    error: of the first call's output against a reference; checked before anything is timed.
    limit: the largest error that counts as right.
    ours: from adaptvis_kernels; then a failure is a failure, where a baseline may refuse.
    """

    name: str
    calls: Callable[[], Sequence[Call]]
    error: Callable[[Any], float]
    limit: float
    ours: bool = False


@dataclass(frozen=True)
class Problem:
    """Variants of one kernel at one shape; ``cost`` is (bytes, floating-point operations)."""

    kernel: str
    model: str
    shape: str
    cost: tuple[int, int]
    variants: Sequence[Variant]
    dimensions: dict[str, int | None] = field(default_factory=dict)
    report_memory: bool = False


@dataclass
class Record:
    """One row of the results.

    status: "ok", "wrong", "not supported" (a baseline refused), "failed" (one of ours did). Only a
    right variant is timed. spread: difference of the medians of both timings, as a share.
    """

    kernel: str
    model: str
    shape: str
    dimensions: dict[str, int | None]
    variant: str
    ours: bool
    status: str
    limit: float
    detail: str = ""
    error: float | None = None
    microseconds: float | None = None
    spread: float | None = None
    method: str | None = None
    bytes_moved: int | None = None
    operations: int | None = None
    bytes_per_second: float | None = None
    operations_per_second: float | None = None
    bound: str | None = None
    share_of_ceiling: float | None = None
    peak_bytes: int | None = None
    time_over: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it: an error that is no finite number becomes text."""
        values = asdict(self)
        if self.error is not None and not math.isfinite(self.error):
            values["error"] = str(self.error)
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        """The record that :meth:`as_json` gave."""
        error = values["error"]
        return cls(**(values | {"error": float(error) if isinstance(error, str) else error}))


def run_problem(problem: Problem, device: torch.device, ceilings: Ceilings) -> list[Record]:
    """Check every variant, then time the right ones in two rounds, the second in reverse."""
    # Once per problem: it takes a third of a second.
    gc.collect()
    records, ready = [], {}
    for variant in problem.variants:
        record = Record(
            problem.kernel,
            problem.model,
            problem.shape,
            problem.dimensions,
            variant.name,
            variant.ours,
            "ok",
            variant.limit,
        )
        records.append(record)
        calls = _check(variant, record)
        if calls is not None:
            ready[variant.name] = calls
        _release(device)
    by_name = {record.variant: record for record in records}

    rounds: list[dict[str, Timing]] = [{}, {}]
    for timings, names in zip(rounds, (list(ready), list(reversed(ready))), strict=True):
        for name in names:
            record = by_name[name]
            if record.status != "ok":
                continue
            try:
                timings[name] = measure(ready[name], device)
                if problem.report_memory and record.peak_bytes is None:
                    record.peak_bytes = peak_bytes(ready[name][0], device)
            except Exception as problem_found:
                _give_up(record, problem_found)
            _release(device)
    for name in ready:
        if by_name[name].status == "ok":
            _fill(by_name[name], problem, rounds[0][name], rounds[1][name], ceilings)
    for record in records:
        if record.ours and record.microseconds is not None:
            record.time_over = {
                other.variant: record.microseconds / other.microseconds
                for other in records
                if other is not record and other.microseconds is not None
            }
    return records


def _check(variant: Variant, record: Record) -> Sequence[Call] | None:
    """The variant's calls, or None where it cannot be timed; the record says why."""
    try:
        calls = variant.calls()
        for call in calls[1:]:
            call()
        # What a kernel does not write keeps the NaN: the allocator hands the memory out again.
        poison(calls[0]())
        record.error = variant.error(calls[0]())
    except Exception as problem_found:
        _give_up(record, problem_found)
        return None
    if not record.error <= variant.limit:
        record.status = "wrong"
        return None
    return calls


def _give_up(record: Record, problem_found: Exception) -> None:
    record.status = "failed" if record.ours else "not supported"
    text = str(problem_found).strip().split("\n")[0] or "no message"
    if isinstance(problem_found, torch.OutOfMemoryError):
        text = "out of memory"
    elif not isinstance(problem_found, Refused):
        text = f"{type(problem_found).__name__}: {text}"
    record.detail = text[:200]


def _fill(
    record: Record, problem: Problem, first: Timing, second: Timing, ceilings: Ceilings
) -> None:
    moved, operations = problem.cost
    both = Timing(first.samples + second.samples, first.method)
    seconds = both.median / 1e6
    floor, record.bound = ceilings.floor(moved, operations)
    record.microseconds = both.median
    record.spread = abs(first.median - second.median) / min(first.median, second.median)
    record.method = both.method
    record.bytes_moved, record.operations = moved, operations
    record.bytes_per_second = moved / seconds
    record.operations_per_second = operations / seconds
    record.share_of_ceiling = floor / seconds


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
