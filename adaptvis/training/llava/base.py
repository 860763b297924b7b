"""The model a run begins with: parts of other models around a fresh projector."""

from __future__ import annotations

from typing import Any

import torch

from adaptvis.models.build import assemble
from adaptvis.models.locating import embedded_models
from adaptvis.models.processors import with_aspect_ratio
from adaptvis.training.llava.recipe import Recipe

__all__ = ["begin", "source_of"]


def source_of(name: str, seed: int) -> str:
    """Folder of an embedded model, or the folder or hub id itself; `{parity}` filled in."""
    name = name.replace("{parity}", str(seed % 2))
    return str(embedded_models().get(name, name))


def begin(recipe: Recipe, seed: int) -> tuple[Any, Any]:
    """Model in float32 with a fresh projector, and its processor: that of the last stage.

    Raises:
        CheckpointError: a part is missing or of another architecture.
        ConfigError: a layer is out of range, or the options contradict the tower.
    """
    layers = recipe.vision_feature_layers
    model, processor = assemble(
        source_of(recipe.base.language_model, seed),
        source_of(recipe.base.vision_tower, seed),
        normalize=recipe.normalize,
        vision_feature_layers=list(layers) if isinstance(layers, tuple) else layers,
        compression=recipe.compression,
        target_mean=recipe.target_mean,
        max_norm=recipe.max_norm,
        seed=seed,
    )
    ratio = recipe.stages[-1].image_aspect_ratio
    return model.to(torch.float32), with_aspect_ratio(processor, ratio)
