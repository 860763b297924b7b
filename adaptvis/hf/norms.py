"""Inference-time norm rescaling of projected image tokens (Beyond Semantics, section 5.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adaptvis.config import NormRescale
from adaptvis.errors import UnsupportedError
from adaptvis.steering.backend import rescale_norms

__all__ = ["rescale_features", "text_embedding_norms"]

_ROWS_AT_ONCE = 8192


@torch.no_grad()
def text_embedding_norms(embedding: nn.Module) -> Tensor:
    """L2 norms [V] of the text embeddings as the decoder receives them, table scaling included."""
    table: Tensor = embedding.weight  # type: ignore[assignment]
    ids = torch.arange(table.shape[0], device=table.device)
    return torch.cat([embedding(part).float().norm(dim=-1) for part in ids.split(_ROWS_AT_ONCE)])


def rescale_features(outputs: Any, config: NormRescale, norms: Tensor) -> Any:
    """Rescale what ``get_image_features`` returned, keeping its type.

    Args:
        outputs: a model output whose ``pooler_output`` is a tensor [..., D] or a sequence of them.
        norms: L2 norms of the text embeddings [V], for ``"text"``.
    """
    target = float(norms.mean()) if config.target == "text" else config.target
    clip = float(norms.max()) if config.clip == "text" else config.clip
    features = getattr(outputs, "pooler_output", None)
    if features is None:
        raise UnsupportedError(
            "NormRescale expects get_image_features to return a model output with pooler_output; "
            "call the model with return_dict=True"
        )
    if isinstance(features, Tensor):
        outputs.pooler_output = rescale_norms(features, target, clip)
    else:
        outputs.pooler_output = type(features)(
            rescale_norms(feature, target, clip) for feature in features
        )
    return outputs
