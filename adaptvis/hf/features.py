"""The image tokens that ``get_image_features`` returns: editing them, counting each image's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from adaptvis.errors import UnsupportedError

__all__ = ["edit_features", "feature_lengths"]


def edit_features(outputs: Any, edit: Callable[[Tensor], Tensor], method: str) -> Any:
    """Edit every tensor of projected image tokens, keeping the type of ``outputs``.

    Args:
        outputs: a model output whose ``pooler_output`` is a tensor [..., D] or a sequence of them.
        method: who asks, for the message.

    Raises:
        UnsupportedError: the model returned something else.
    """
    features = getattr(outputs, "pooler_output", None)
    if features is None:
        raise UnsupportedError(
            f"{method} expects get_image_features to return a model output with pooler_output; "
            "call the model with return_dict=True"
        )
    if isinstance(features, Tensor):
        outputs.pooler_output = edit(features)
    else:
        outputs.pooler_output = type(features)(edit(feature) for feature in features)
    return outputs


def feature_lengths(features: Any) -> list[int] | None:
    """Tokens per image, where the encoder returns one entry per image."""
    if isinstance(features, Tensor):
        return [features.shape[1]] * len(features) if features.dim() == 3 else None
    if isinstance(features, list | tuple):
        return [len(feature) for feature in features]
    return None
