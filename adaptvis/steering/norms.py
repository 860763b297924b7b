"""The norms of projected image tokens (Beyond Semantics, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adaptvis.config import NormRescale

__all__ = ["measure_norms", "normalize_projection", "rescale_norms", "target_and_clip"]

_ROWS_AT_ONCE = 8192


@torch.no_grad()
def measure_norms(embed: Callable[[Tensor], Tensor], count: int, device: torch.device) -> Tensor:
    """L2 norms, float32 [count], of what ``embed`` makes of the token ids from 0 to ``count``.

    Args:
        device: where ``embed`` takes ids; meta, of a table that is offloaded, stands for the CPU.
    """
    ids = torch.arange(count, device="cpu" if device.type == "meta" else device)
    return torch.cat([embed(part).float().norm(dim=-1) for part in ids.split(_ROWS_AT_ONCE)])


def target_and_clip(config: NormRescale, norms: Tensor) -> tuple[float | None, float | None]:
    """The numbers that a configuration stands for.

    Args:
        norms: L2 norms of the text embeddings [V], for ``"text"``.
    """
    target = float(norms.mean()) if config.target == "text" else config.target
    clip = float(norms.max()) if config.clip == "text" else config.clip
    return target, clip


def rescale_norms(embeddings: Tensor, target: float | None, clip: float | None) -> Tensor:
    """Rescale each vector of ``embeddings`` [..., D] to norm ``target``, then to at most ``clip``.

    Norms are L2. Computed in float32 and returned in the input's dtype. Zero vectors stay zero.
    """
    wide = embeddings.float()
    norms = wide.norm(dim=-1, keepdim=True)
    wanted = norms if target is None else torch.full_like(norms, target)
    if clip is not None:
        wanted = wanted.clamp(max=clip)
    scale = torch.where(norms > 0, wanted / norms.clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    return (wide * scale).to(embeddings.dtype)


def normalize_projection(
    features: Tensor, weight: Tensor, *, max_norm: float, target_mean: float, eps: float
) -> Tensor:
    """RMSNorm of ``features`` [..., D] times ``weight`` [D], clipped, then scaled.

    L2 norms are clipped to ``max_norm`` and then multiplied by ``target_mean``. Computed in
    float32 and returned in the input's dtype; differentiable.
    """
    wide = features.float()
    z = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    # min(1, max_norm / |z|), with a gradient at |z| = 0.
    z = z * (max_norm / z.norm(dim=-1, keepdim=True).clamp(min=max_norm))
    return (z * target_mean).to(features.dtype)
