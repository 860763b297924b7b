"""The two public functions: checks, and whether a gradient will be asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...checks import (
    FLOAT_TYPES,
    check_devices,
    check_dtype,
    check_positive,
    check_shape,
    require,
)
from .passes import normalize_backward, normalize_forward, rescale_backward, rescale_forward

__all__ = ["normalize_projection", "rescale_norms"]

# One row is one block in registers; the Normalize backward keeps four of them.
_LARGEST_RESCALED = 16384
_LARGEST_NORMALIZED = 8192


def rescale_norms(embeddings: Tensor, *, target: float | None, clip: float | None) -> Tensor:
    """Rescale each vector to L2 norm ``target``, then to at most ``clip``.

    Computed in float32. Zero vectors stay zero, and pass their gradient through unchanged, as do
    vectors whose norm does not change. Differentiable once.

    Args:
        embeddings: [..., D] in float32, float16 or bfloat16; D up to 16384. With a last stride of 1
            and leading dimensions that can be viewed as one, nothing is copied.
        target: the wanted norm, above 0; None keeps norms.
        clip: the largest norm, above 0; None does not clip.

    Returns:
        [..., D] in the dtype of ``embeddings``, contiguous.

    Raises:
        ValueError: a value, shape, dtype or device does not fit.
    """
    _check_vectors("embeddings", embeddings, _LARGEST_RESCALED)
    for name, value in (("target", target), ("clip", clip)):
        if value is not None:
            check_positive(name, value)
    check_devices(embeddings=embeddings)
    # To a constant norm always, or only from above it; without either, from above infinity: never.
    limit = min(float(value) for value in (target, clip, math.inf) if value is not None)
    always = target is not None
    if torch.is_grad_enabled() and embeddings.requires_grad:
        result: Tensor = _RescaleNorms.apply(embeddings, limit, always)
        return result
    return rescale_forward(embeddings, limit, always)


def normalize_projection(
    features: Tensor,
    weight: Tensor,
    *,
    max_norm: float,
    target_mean: float,
    eps: float = 1e-6,
) -> Tensor:
    """The Normalize projector's tail: RMSNorm, norms clipped, then scaled.

    ``z = features * (mean(features^2) + eps)^(-1/2) * weight``, clipped to
    ``z * min(1, max_norm / |z|)``, then multiplied by ``target_mean``, all in float32.
    Differentiable once, in features and weight; the weight's gradient is summed in a fixed order.

    Args:
        features: [..., D] in float32, float16 or bfloat16; D up to 8192. With a last stride of 1
            and leading dimensions that can be viewed as one, nothing is copied.
        weight: [D] in one of these dtypes, not necessarily the same.
        max_norm: the largest L2 norm before ``target_mean``, above 0.
        target_mean: the factor at the end, above 0.
        eps: added to the mean square, above 0.

    Returns:
        [..., D] in the dtype of ``features``, contiguous.

    Raises:
        ValueError: a value, shape, dtype or device does not fit.
    """
    _check_vectors("features", features, _LARGEST_NORMALIZED)
    check_shape("weight", weight, (features.shape[-1],))
    check_dtype("weight", weight, FLOAT_TYPES)
    constants = {"max_norm": max_norm, "target_mean": target_mean, "eps": eps}
    for name, value in constants.items():
        check_positive(name, value)
    check_devices(features=features, weight=weight)
    values = (float(max_norm), float(target_mean), float(eps))
    if torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad):
        result: Tensor = _NormalizeProjection.apply(features, weight, *values)
        return result
    return normalize_forward(features, weight, *values)


def _check_vectors(name: str, tensor: Tensor, largest: int) -> None:
    require(tensor.dim() > 0, f"{name} must have shape [..., D], got a scalar")
    check_dtype(name, tensor, FLOAT_TYPES)
    require(
        tensor.shape[-1] <= largest,
        f"{name} must have a last dimension of at most {largest}, got {tensor.shape[-1]}",
    )


# Of each row's statistics nothing is saved: the backward passes have the row in registers anyway.


class _RescaleNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, limit: float, always: bool) -> Tensor:
        ctx.save_for_backward(embeddings)
        ctx.constants = (limit, always)
        return rescale_forward(embeddings, limit, always)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None]:
        (embeddings,) = ctx.saved_tensors
        return rescale_backward(embeddings, output_gradient, *ctx.constants), None, None


class _NormalizeProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, max_norm: float, target_mean: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.constants = (max_norm, target_mean, eps)
        return normalize_forward(features, weight, max_norm, target_mean, eps)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, output_gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        features, weight = ctx.saved_tensors
        gradients = normalize_backward(
            features,
            weight,
            output_gradient,
            *ctx.constants,
            need_features=ctx.needs_input_grad[0],
            need_weight=ctx.needs_input_grad[1],
        )
        return *gradients, None, None, None
