"""Every shipped case of every kernel, run on a device and compared with float64."""

from __future__ import annotations

import gc
import math
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..cases import OPS, cases_of
from .expected import expected_outputs
from .inputs import real_arguments

__all__ = ["Check", "Checked", "check", "checks", "poison", "relative_error", "run_checks"]

# Of norm(output - expected) / norm(expected). bfloat16 keeps 8 bits and float16 11, of the operands
# of the second product as of the output; what the kernels return in float32 of 16-bit inputs is
# computed in float32.
LIMITS = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
_LIMIT_OF_FLOAT32_INPUTS = 1e-5
# A single row may be off by this many times as much: rounding the operands and the output leaves
# rows of at most 7e-3 in bfloat16 and 5e-4 in float16.
_ROW_FACTOR = 2
# Rows are the last dimension of these; every number of the others is a row of its own.
_VECTORS = ("output", "weights", "embeddings_gradient", "features_gradient")
_HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Check:
    """One case of one kernel in one data type; small: of those for the interpreter."""

    op: str
    case: str
    dtype: str
    small: bool = False

    @property
    def name(self) -> str:
        return f"{self.op}, {self.case}, {self.dtype}"


@dataclass(frozen=True)
class Checked:
    """What came of a check: "right", "wrong", "failed" or "skipped" (memory was short).

    error: the largest of its outputs over the limit of that output; above 1 is wrong.
    """

    check: Check
    status: str
    error: float = math.nan
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self.check), "status": self.status, "detail": self.detail}
        return values | {"error": self.error if math.isfinite(self.error) else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Checked:
        names = ("op", "case", "dtype", "small")
        error = math.nan if values["error"] is None else values["error"]
        check = Check(*(values[name] for name in names))
        return cls(check, values["status"], error, values["detail"])


def checks(ops: Sequence[str] = OPS, *, small: bool = False) -> list[Check]:
    """Everything that ships: what a case has in 16 bits, in bfloat16 and in float16."""
    found: list[Check] = []
    for op in ops:
        for case, calls in cases_of(op, small=small):
            types = {
                tensor.dtype
                for call in calls.calls
                for tensor in (*call.args, *call.keywords.values())
                if isinstance(tensor, Tensor) and tensor.is_floating_point()
            }
            dtypes = _HALVES if types - {torch.float32} else ("float32",)
            # The interpreter is slow: there they take turns.
            chosen = dtypes[len(found) % len(dtypes) :][:1] if small else dtypes
            found += [Check(op, case, dtype, small) for dtype in chosen]
    return found


def relative_error(output: Tensor, expected: Tensor) -> float:
    """|output - expected| / |expected| (Euclidean norms); infinite where a value is not finite."""
    if output.shape != expected.shape:
        raise ValueError(f"output has shape {list(output.shape)}, not {list(expected.shape)}")
    expected = expected.double()
    difference = torch.linalg.vector_norm(output.double() - expected)
    if not bool(difference):
        return 0.0
    error = float(difference / torch.linalg.vector_norm(expected))
    return error if math.isfinite(error) else math.inf


def worst_row_error(output: Tensor, expected: Tensor) -> float:
    """The largest |output - expected| / |expected| of a row, the last dimension.

    A norm over everything hides a row among many. Rows that nearly cancel keep the rounding errors
    of their terms, so none is measured against less than the median norm of those that are not 0.
    """
    expected = expected.double()
    difference = torch.linalg.vector_norm(output.double() - expected, dim=-1)
    norm = torch.linalg.vector_norm(expected, dim=-1)
    typical = norm[norm > 0]
    if not bool(difference.any()):
        return 0.0
    if not len(typical):
        return math.inf
    error = float((difference / norm.clamp(min=float(typical.median()))).max())
    return error if math.isfinite(error) else math.inf


def poison(output: Any) -> None:
    """Fill with NaN: the allocator hands the memory out again, and what is never written shows."""
    for tensor in output if isinstance(output, tuple) else (output,):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.detach().fill_(math.nan)


def check(wanted: Check, device: torch.device) -> Checked:
    """Run one check; whatever goes wrong becomes its status."""
    # Triton launches on the current device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), torch.no_grad():
        try:
            case = dict(cases_of(wanted.op, small=wanted.small))[wanted.case]
            errors: dict[str, float] = {}
            for call in case.calls:
                errors |= _errors(call, wanted, device)
        except torch.OutOfMemoryError:
            return Checked(wanted, "skipped", detail="out of memory")
        # The compiler, the driver and the C toolchain raise whatever they like.
        except Exception as problem:
            text = next(iter(str(problem).strip().splitlines()), "no message")
            return Checked(wanted, "failed", detail=f"{type(problem).__name__}: {text}"[:300])
        finally:
            gc.collect()
            # In a broken context this raises, too.
            with suppress(Exception):
                torch.cuda.empty_cache()
    worst = max(errors, key=errors.__getitem__)
    right = errors[worst] <= 1
    detail = "" if right else f"{worst} is {errors[worst]:.3g} times its limit off"
    return Checked(wanted, "right" if right else "wrong", errors[worst], detail)


def _errors(call: partial[Any], wanted: Check, device: torch.device) -> dict[str, float]:
    """Error over limit of every output of one call, by the call's and the output's name."""
    dtype = getattr(torch, wanted.dtype)
    function = call.func.__name__
    # The same values on every machine and in every run; others for every case.
    seed = zlib.crc32(f"{wanted.op}, {wanted.case}, {function}".encode())
    arguments = real_arguments(call, dtype, device, seed)
    poison(call.func(**arguments))
    output = call.func(**arguments)
    outputs = output if isinstance(output, tuple) else (output,)
    outputs = tuple(tensor for tensor in outputs if tensor is not None)
    expected = expected_outputs(function, arguments)
    errors = {}
    # Without its option a launcher returns no log-sum-exp.
    for (name, right), actual in zip(expected.items(), outputs, strict=False):
        limit = _LIMIT_OF_FLOAT32_INPUTS if dtype == torch.float32 else LIMITS[actual.dtype]
        errors[f"{name} of {function}"] = _error(actual, right, rows=name in _VECTORS) / limit
    return errors


def _error(actual: Tensor, expected: Tensor, *, rows: bool) -> float:
    """The larger of the relative error and the worst row's, over its factor, where the outcome is
    defined; -inf must be met exactly. rows: of the last dimension, not single numbers."""
    defined = ~expected.isnan()
    infinite = expected.isinf()
    if not torch.equal(actual[infinite & defined].double(), expected[infinite & defined]):
        return math.inf
    finite = defined & ~infinite
    whole = relative_error(actual[finite], expected[finite])
    actual, expected = actual.masked_fill(~finite, 0), expected.masked_fill(~finite, 0)
    if not rows:
        actual, expected = actual[..., None], expected[..., None]
    return max(whole, worst_row_error(actual, expected) / _ROW_FACTOR)


def run_checks(
    wanted: Sequence[Check], device: torch.device, *, jobs: int = 1
) -> Iterator[Checked]:
    """Run checks as they come to an end, in ``jobs`` processes, since most of the time is the
    compiler's; 1 runs them in this process.

    A kernel that breaks its process or its device's context fails. Those that it took along, and
    those that memory was too short for beside others, run again, each in a process of its own.
    """
    if jobs <= 1:
        for one in wanted:
            yield check(one, device)
        return
    again = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(check, one, device): one for one in wanted}
        try:
            for future in as_completed(futures):
                try:
                    checked = future.result()
                except BrokenProcessPool:
                    again.append(futures[future])
                    continue
                broken = checked.status == "failed" and "CUDA" in checked.detail
                if broken or checked.status == "skipped":
                    again.append(checked.check)
                else:
                    yield checked
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for one in again:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(check, one, device).result()
            except BrokenProcessPool:
                yield Checked(one, "failed", detail="the process ended")
