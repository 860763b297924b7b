"""Checks of arguments, made before any launch: what was expected, and what came instead."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from .launching import is_interpreted, is_recording

__all__ = [
    "FLOAT_TYPES",
    "check_devices",
    "check_dtype",
    "check_finite",
    "check_no_gradient",
    "check_positive",
    "check_shape",
    "in_float32",
    "require",
]

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def in_float32(value: object) -> float:
    """The number as kernels receive it, in float32: 0 where too small, inf where too large, NaN for
    what is no number."""
    return ctypes.c_float(float(value)).value if isinstance(value, Real) else math.nan


def check_finite(name: str, value: object) -> None:
    """The value is a number whose float32 is finite."""
    require(
        math.isfinite(in_float32(value)),
        f"{name} must be a number that is finite in float32, got {value!r}",
    )


def check_positive(name: str, value: object) -> None:
    """The value is a number whose float32 is finite and above 0."""
    require(
        0 < in_float32(value) < math.inf,
        f"{name} must be a number that is finite and above 0 in float32, got {value!r}",
    )


def check_no_gradient(op: str, **tensors: Tensor | None) -> None:
    """No gradient is asked for: ``op`` has no backward pass."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        require(
            tensor is None or not tensor.requires_grad,
            f"{op} has no backward pass and expects inputs without gradients or torch.no_grad(), "
            f"got {name} that requires one",
        )


def check_shape(name: str, tensor: Tensor, expected: Sequence[int | str]) -> None:
    """The tensor has this shape; a string names a size that may be anything."""
    fits = tensor.dim() == len(expected) and all(
        isinstance(want, str) or want == got
        for want, got in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in expected)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def check_dtype(name: str, tensor: Tensor, expected: torch.dtype | Sequence[torch.dtype]) -> None:
    """The tensor has this data type, or one of these."""
    allowed = (expected,) if isinstance(expected, torch.dtype) else tuple(expected)
    if tensor.dtype not in allowed:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(
            f"{name} must have dtype {wanted}, got {str(tensor.dtype).removeprefix('torch.')}"
        )


def check_devices(**tensors: Tensor | None) -> torch.device:
    """All tensors lie on one device that Triton can launch on; returns that device."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first_name, first = next(iter(given.items()))
    for name, tensor in given.items():
        require(
            tensor.device == first.device,
            f"{name} must be on the device of {first_name}, {first.device}, got {tensor.device}",
        )
    kind = first.device.type
    if (
        kind == "cuda"
        or (kind == "cpu" and is_interpreted())
        or (kind == "meta" and is_recording())
    ):
        return first.device
    raise ValueError(
        f"{first_name} must be on a CUDA or ROCm device, got {first.device}; on a CPU call the "
        "reference beside the kernel, or set TRITON_INTERPRET=1 before Python starts"
    )
