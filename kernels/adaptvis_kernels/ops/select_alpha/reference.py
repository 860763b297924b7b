"""The definition: confidence and policy, in float32 (float64 for float64 logits)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["select_alpha_reference"]


def select_alpha_reference(
    logits: Tensor,
    *,
    threshold: float | Tensor,
    alpha_low: float | Tensor,
    alpha_high: float | Tensor,
    applies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Confidence [R] and alpha [R] of logits [R, V]; arguments as in the kernel's launcher."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    confidence = torch.exp(wide.amax(dim=-1) - torch.logsumexp(wide, dim=-1))
    low, high = (torch.as_tensor(value, device=wide.device) for value in (alpha_low, alpha_high))
    alpha = torch.where(confidence < threshold, low, high).float()
    if applies is not None:
        alpha = torch.where(applies, alpha, 1.0)
    return confidence, alpha
