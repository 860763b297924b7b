"""The projector with its options, in the order in which they act: pool, then normalise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.steering.backend import normalize_projection

__all__ = ["AdaptVisProjector", "NormalizedTail", "pool_grid"]


def pool_grid(features: Tensor, tokens: int) -> Tensor:
    """Average-pool a square grid of tokens [B, side * side, D] to [B, tokens, D]."""
    side, wanted = math.isqrt(features.shape[1]), math.isqrt(tokens)
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, wanted).flatten(2).transpose(1, 2)


class NormalizedTail(nn.Module):
    """What stands behind the projector of the Normalize variant (Beyond Semantics, section 5.2).

    RMSNorm over the hidden dimension with a learned weight [D]; each token's L2 norm clipped to at
    most ``max_norm``; multiplied by ``target_mean``. The weight begins at 1 / sqrt(D), so every
    token begins with norm ``target_mean``, the mean of the text embeddings.
    """

    def __init__(self, hidden_size: int, *, max_norm: float, target_mean: float, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((hidden_size,), hidden_size**-0.5))
        self.max_norm, self.target_mean, self.eps = max_norm, target_mean, eps

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features [..., D]."""
        return normalize_projection(
            features,
            self.weight,
            max_norm=self.max_norm,
            target_mean=self.target_mean,
            eps=self.eps,
        )


class AdaptVisProjector(LlavaMultiModalProjector):
    """The library's projector, then pooling, then the normalised tail, as configured."""

    def __init__(self, config: AdaptVisLlavaConfig):
        super().__init__(config)
        self.compression = config.compression
        self.norm: NormalizedTail | None = None
        if config.normalize:
            assert config.max_norm is not None
            assert config.target_mean is not None
            self.norm = NormalizedTail(
                config.text_config.hidden_size,
                max_norm=config.max_norm,
                target_mean=config.target_mean,
                eps=config.norm_eps,
            )

    def forward(self, image_features: Tensor) -> Tensor:
        """Image tokens [B, T, D] from the tower's features [B, N, layers * width]."""
        features: Tensor = super().forward(image_features)
        if self.compression is not None:
            features = pool_grid(features, self.compression)
        return features if self.norm is None else self.norm(features)
