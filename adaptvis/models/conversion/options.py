"""Switching options on in a checkpoint that was trained without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptvis.errors import ConfigError
from adaptvis.models.build import fresh_projector
from adaptvis.models.conversion.checkpoint import EMBEDDINGS, Checkpoint
from adaptvis.models.conversion.hub import own_config
from adaptvis.models.processors import placeholder_patch
from adaptvis.models.text_norms import measure_text_norms

__all__ = ["with_options"]


def with_options(
    checkpoint: Checkpoint,
    *,
    normalize: bool = False,
    target_mean: float | None = None,
    max_norm: float | None = None,
    vision_feature_layers: int | Sequence[int] | None = None,
    compression: int | None = None,
    new_projector: bool = False,
    seed: int = 0,
) -> Checkpoint:
    """The checkpoint with options; a weight for Normalize is fresh, 1 / sqrt(D).

    Raises:
        ConfigError: options contradict each other, or other layers need a projector of another
            width and ``new_projector`` does not allow that.
    """
    config = checkpoint.config
    if not normalize and (target_mean is not None or max_norm is not None):
        raise ConfigError("target_mean and max_norm belong to normalize; switch it on as well")
    changes: dict[str, object] = {}
    if normalize:
        if config.normalize and not new_projector and (target_mean is None or max_norm is None):
            raise ConfigError(
                f"{checkpoint.source} is normalised already, at target_mean {config.target_mean:g} "
                f"and max_norm {config.max_norm:g}, which measuring would replace; leave "
                "--normalize out to keep them, or give both --target-mean and --max-norm"
            )
        if target_mean is None or max_norm is None:
            mean, largest = _norms(checkpoint)
            target_mean = mean if target_mean is None else target_mean
            max_norm = largest if max_norm is None else max_norm
        changes |= {"normalize": True, "target_mean": target_mean, "max_norm": max_norm}
    if vision_feature_layers is not None:
        layers = vision_feature_layers
        layers = layers if isinstance(layers, int) else list(layers)
        if layers != config.vision_feature_layer and not new_projector:
            raise ConfigError(
                f"The projector was trained on layer {config.vision_feature_layer} of the vision "
                f"tower and cannot take {layers}; allow a fresh, untrained projector with "
                "--new-projector"
            )
        changes["vision_feature_layer"] = layers
    if compression is not None:
        changes["compression"] = compression
    if not changes and not new_projector:
        return checkpoint
    had_norm = config.normalize
    old_dtype = checkpoint.tensor("multi_modal_projector.linear_2.weight").dtype
    original = getattr(config, "original", None)
    config.__dict__.update(changes)
    checkpoint.config = own_config(config)
    checkpoint.config.original = original
    checkpoint.config.image_seq_length = checkpoint.config.image_tokens
    vision = checkpoint.config.vision_config
    checkpoint.processor.patch_size = placeholder_patch(
        vision.image_size, vision.patch_size, checkpoint.config.compression
    )
    fresh = fresh_projector(checkpoint.config, seed).to(old_dtype).state_dict()
    for name, tensor in fresh.items():
        if new_projector or (name == "norm.weight" and not had_norm):
            checkpoint.extra[f"multi_modal_projector.{name}"] = tensor
    if new_projector:
        _drop_old_projector(checkpoint)
    return checkpoint


def _drop_old_projector(checkpoint: Checkpoint) -> None:
    stored = checkpoint.stored
    checkpoint.stored = lambda: (
        (name, tensor) for name, tensor in stored() if not name.startswith("multi_modal_projector.")
    )


def _norms(checkpoint: Checkpoint) -> tuple[float, float]:
    tokenizer, config = checkpoint.processor.tokenizer, checkpoint.config
    table = checkpoint.extra.get(EMBEDDINGS)
    table = checkpoint.tensor(EMBEDDINGS) if table is None else table
    left_out = {config.image_token_id, tokenizer.pad_token_id} - {None}
    with torch.no_grad():
        return measure_text_norms(table, ignored=left_out, rows=len(tokenizer))
