"""Inference-time norm rescaling of projected image tokens (Beyond Semantics, section 5.2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adaptvis.config import NormRescale
from adaptvis.hf.features import edit_features
from adaptvis.steering.backend import rescale_norms
from adaptvis.steering.norms import measure_norms, target_and_clip

__all__ = ["rescale_features", "table_version", "text_embedding_norms"]


def table_version(embedding: nn.Module) -> tuple[int, int] | None:
    """Changes when the embeddings do; None where nothing tells, so that they are measured again.

    Nothing tells for tensors made in inference mode, for weights that are elsewhere between calls
    (offloaded), and for tables with adapters, which can be switched.
    """
    table: Tensor = embedding.weight  # type: ignore[assignment]
    if table.is_inference() or table.is_meta or len(list(embedding.parameters())) > 1:
        return None
    return table.data_ptr(), table._version


def text_embedding_norms(embedding: nn.Module) -> Tensor:
    """L2 norms [V] of the text embeddings as the decoder receives them, table scaling included."""
    table: Tensor = embedding.weight  # type: ignore[assignment]
    return measure_norms(embedding, table.shape[0], table.device)


def rescale_features(outputs: Any, config: NormRescale, norms: Tensor) -> Any:
    """Rescale what ``get_image_features`` returned, keeping its type.

    Args:
        outputs: a model output whose ``pooler_output`` is a tensor [..., D] or a sequence of them.
        norms: L2 norms of the text embeddings [V], for ``"text"``.
    """
    target, clip = target_and_clip(config, norms)
    return edit_features(
        outputs, lambda feature: rescale_norms(feature, target, clip), "NormRescale"
    )
