"""Rescaling the norms of projected image tokens (Beyond Semantics, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adaptvis.config import NormRescale

__all__ = ["measure_norms", "rescale_norms", "target_and_clip"]

_ROWS_AT_ONCE = 8192


@torch.no_grad()
def measure_norms(embed: Callable[[Tensor], Tensor], count: int, device: torch.device) -> Tensor:
    """L2 norms, float32 [count], of what ``embed`` makes of the token ids from 0 to ``count``."""
    ids = torch.arange(count, device=device)
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
