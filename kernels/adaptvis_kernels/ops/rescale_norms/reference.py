"""The definitions, in float32 (float64 for float64 inputs); their gradients are autograd's."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["normalize_projection_reference", "rescale_norms_reference"]


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rescale_norms_reference(
    embeddings: Tensor, *, target: float | None, clip: float | None
) -> Tensor:
    """Vectors of ``embeddings`` [..., D] at norm ``target``, then at most ``clip``; 0 stays 0."""
    wide = _wide(embeddings)
    norms = wide.norm(dim=-1, keepdim=True)
    wanted = norms if target is None else torch.full_like(norms, target)
    if clip is not None:
        wanted = wanted.clamp(max=clip)
    scale = torch.where(norms > 0, wanted / torch.where(norms > 0, norms, 1.0), 1.0)
    return (wide * scale).to(embeddings.dtype)


def normalize_projection_reference(
    features: Tensor,
    weight: Tensor,
    *,
    max_norm: float,
    target_mean: float,
    eps: float = 1e-6,
) -> Tensor:
    """RMSNorm of ``features`` [..., D], clipped to ``max_norm``, times ``target_mean``."""
    wide = _wide(features)
    z = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * _wide(weight)
    # min(1, max_norm / |z|), with a gradient at |z| = 0.
    z = z * (max_norm / z.norm(dim=-1, keepdim=True).clamp(min=max_norm))
    return (z * target_mean).to(features.dtype)
