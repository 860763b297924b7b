"""Configuration of a LLaVA with a normalised projector, multilayer features and compression."""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig

from adaptvis.errors import ConfigError

__all__ = ["MODEL_TYPE", "AdaptVisLlavaConfig"]

MODEL_TYPE = "adaptvis_llava"


@strict
class AdaptVisLlavaConfig(LlavaConfig):
    """The library's LLaVA with options of *Beyond Semantics* (section 5.2), all off by default.

    ``vision_feature_layer`` is the library's own field and takes a list, which is the Multilayer
    variant: hidden states counted as transformers does, so 12 is the output of the twelfth block,
    and their concatenation goes into the projector.

    normalize: RMSNorm with a learned weight behind the projector, norms clipped to ``max_norm``,
        then multiplied by ``target_mean``.
    target_mean, max_norm: mean and largest L2 norm of the language model's embedding table
        (Vicuna-7B: 0.83 and 1.22); required with ``normalize``.
    norm_eps: epsilon of the RMSNorm.
    compression: number of image tokens after average-pooling the projected grid, a square number;
        None keeps every token. Pooled before norms are taken.

    Raises:
        ConfigError: the options contradict each other or the vision tower.
    """

    model_type = MODEL_TYPE

    normalize: bool = False
    target_mean: float | None = None
    max_norm: float | None = None
    norm_eps: float = 1e-6
    compression: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check_layers()
        self._check_norms()
        self._check_compression()

    @property
    def grid(self) -> int:
        """Patches along one side of the vision tower's image."""
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    @property
    def image_tokens(self) -> int:
        """Tokens of one image in the prompt."""
        if self.compression is not None:
            return self.compression
        dropped = self.vision_feature_select_strategy == "default"
        return self.grid**2 + int(self.has_class_token) - int(dropped)

    @property
    def has_class_token(self) -> bool:
        """Whether the tower puts a class token before the patches: CLIP does, SigLIP does not."""
        return not str(self.vision_config.model_type).startswith("siglip")

    def _check_layers(self) -> None:
        blocks = self.vision_config.num_hidden_layers
        layers = self.vision_feature_layer
        chosen = [layers] if isinstance(layers, int) else layers
        if not chosen:
            raise ConfigError("vision_feature_layer is an empty list; name at least one layer")
        for layer in chosen:
            if not -blocks - 1 <= layer <= blocks:
                raise ConfigError(
                    f"vision_feature_layer {layer} is out of range: this vision tower has {blocks} "
                    f"blocks, so layers go from 0 (the embeddings) to {blocks}, or from -1 down to "
                    f"{-blocks - 1}"
                )

    def _check_norms(self) -> None:
        for name in ("target_mean", "max_norm"):
            value = getattr(self, name)
            if value is None and self.normalize:
                raise ConfigError(
                    f"normalize needs {name}; adaptvis.models.measure_text_norms takes it from the "
                    "language model's embedding table"
                )
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a finite number above 0, got {value}")
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise ConfigError(f"norm_eps must be a finite number above 0, got {self.norm_eps}")

    def _check_compression(self) -> None:
        if self.compression is None:
            return
        side = math.isqrt(max(self.compression, 0))
        if side < 1 or side * side != self.compression or side > self.grid:
            raise ConfigError(
                f"compression must be a square number from 1 to {self.grid**2} image tokens, got "
                f"{self.compression}"
            )
        wanted = "default" if self.has_class_token else "full"
        if self.vision_feature_select_strategy != wanted:
            raise ConfigError(
                "compression pools the patch grid, so vision_feature_select_strategy must be "
                f"{wanted!r} with a {self.vision_config.model_type}, got "
                f"{self.vision_feature_select_strategy!r}"
            )
