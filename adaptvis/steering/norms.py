"""Rescaling the norms of projected image tokens (Beyond Semantics, section 5.2)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rescale_norms"]


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
