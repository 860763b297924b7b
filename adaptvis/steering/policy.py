"""From the model's confidence to the coefficient, per prompt and on device."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptvis.config import AdaptVis, ScalingVis

__all__ = ["confidence_of", "may_select_one", "select_alpha"]


def confidence_of(logits: Tensor) -> Tensor:
    """Largest softmax probability of raw logits [..., V], in float32 [...].

    AdaptVis paper, section 5: the confidence of the first generated token. Taken before
    temperature, penalties and any other logits processor.
    """
    logits = logits.float()
    return torch.exp(logits.amax(dim=-1) - torch.logsumexp(logits, dim=-1))


def select_alpha(config: ScalingVis | AdaptVis, confidence: Tensor) -> Tensor:
    """The coefficient of each prompt: float32, the shape and device of ``confidence``.

    AdaptVis compares without rounding and strictly: ``confidence < threshold`` takes alpha_low.
    """
    if isinstance(config, ScalingVis):
        return torch.full_like(confidence, config.alpha, dtype=torch.float32)
    low = torch.full_like(confidence, config.alpha_low, dtype=torch.float32)
    high = torch.full_like(confidence, config.alpha_high, dtype=torch.float32)
    return torch.where(confidence < config.threshold, low, high)


def may_select_one(config: ScalingVis | AdaptVis) -> bool:
    """Whether :func:`select_alpha` can give exactly 1, which leaves a prompt untouched."""
    if isinstance(config, ScalingVis):
        return config.alpha == 1
    return config.alpha_low == 1 or config.alpha_high == 1
