"""From the model's confidence to the coefficient, per prompt and on device."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from adaptvis.config import AdaptVis, ScalingVis

__all__ = [
    "NOT_A_NUMBER",
    "compared_of",
    "confidence_of",
    "cut_of",
    "may_select_one",
    "select_alpha",
]

NOT_A_NUMBER = (
    "the confidence is not a number, because the model's logits are none (as where activations "
    "overflow in float16; load the model in another dtype)"
)
"""Why a prompt counts as not steered whose answer means nothing, steered or not."""


def confidence_of(logits: Tensor) -> Tensor:
    """Largest softmax probability of raw logits [..., V], in float32 [...].

    AdaptVis paper, section 5: the confidence of the first generated token. Taken before
    temperature, penalties and any other logits processor.
    """
    logits = logits.float()
    return torch.exp(logits.amax(dim=-1) - torch.logsumexp(logits, dim=-1))


def compared_of(config: ScalingVis | AdaptVis, logits: Tensor, confidence: Tensor) -> Tensor:
    """What the configuration holds against its threshold: float32, the shape of ``confidence``."""
    if isinstance(config, AdaptVis) and config.compared == "rounded_logit":
        return logits.float().amax(dim=-1).to(confidence.device)
    return confidence


def cut_of(config: AdaptVis) -> float:
    """The threshold as a comparison without rounding has it: below it lies alpha_low.

    Rounding keeps the order, so there is one number that parts what the authors' code finds below
    its threshold from the rest of all float32: no kernel has to round.
    """
    return config.threshold if config.compared is None else _cut_of_rounded(config.threshold)


@lru_cache(maxsize=256)
def _cut_of_rounded(threshold: float) -> float:
    """The smallest float32 that ``numpy.round(value, 2)`` does not bring below the threshold."""
    hundredths = int(threshold * 100) - 1
    while hundredths / 100 < threshold:
        hundredths += 1
    if hundredths <= 0:
        return 0.0
    # One number of two is the first from here; which one is up to ties, that go to the even digit.
    value = np.float32((hundredths - 0.5) / 100)
    while np.round(float(value), 2) >= threshold:
        value = np.nextafter(value, np.float32(0))
    while np.round(float(value), 2) < threshold:
        value = np.nextafter(value, np.float32(2))
    return float(value)


def select_alpha(config: ScalingVis | AdaptVis, compared: Tensor) -> Tensor:
    """The coefficient of each prompt: float32, the shape and device of ``compared``.

    AdaptVis compares strictly: a confidence below the threshold takes alpha_low.

    Args:
        compared: the confidence, or what :func:`compared_of` gives.
    """
    if isinstance(config, ScalingVis):
        return torch.full_like(compared, config.alpha, dtype=torch.float32)
    low = torch.full_like(compared, config.alpha_low, dtype=torch.float32)
    high = torch.full_like(compared, config.alpha_high, dtype=torch.float32)
    return torch.where(compared < cut_of(config), low, high)


def may_select_one(config: ScalingVis | AdaptVis) -> bool:
    """Whether :func:`select_alpha` can give exactly 1, which leaves a prompt untouched."""
    if isinstance(config, ScalingVis):
        return config.alpha == 1
    return config.alpha_low == 1 or config.alpha_high == 1
