"""Amplifying directions of image-token embeddings (Dual Mechanisms, section 5.4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["AMPLIFICATION_ALPHAS", "EPSILON", "amplify_directions"]

AMPLIFICATION_ALPHAS = tuple(float(alpha) for alpha in range(1, 16))
"""The published ladder."""

EPSILON = 1e-8
"""Added to the squared norm of a direction, as published."""


def amplify_directions(embeddings: Tensor, directions: Tensor, alpha: float) -> Tensor:
    """``h + alpha * sum_k c_k w_k`` with ``c_k = (h . w_k) / (|w_k|^2 + 1e-8)``.

    Computed in float32 and returned in the input's dtype.

    Args:
        embeddings: [..., D], one ``h`` each.
        directions: [K, D], the ``w_k``; they need be neither normalised nor orthogonal.
    """
    wide = embeddings.float()
    vectors = directions.to(device=wide.device, dtype=torch.float32)
    coefficients = wide @ vectors.T / (vectors.square().sum(dim=-1) + EPSILON)
    return (wide + alpha * (coefficients @ vectors)).to(embeddings.dtype)
