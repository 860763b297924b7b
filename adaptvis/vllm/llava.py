"""Normalize and Multilayer LLaVA in vLLM: its own LLaVA, with other features and another projector.

vLLM imports this module by name, in processes that run or inspect the model.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaMultiModalProjector,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper, get_layer_index, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.projector import NormalizedTail, pool_grid

__all__ = ["AdaptVisLlavaForConditionalGeneration", "feature_layers"]


def feature_layers(config: AdaptVisLlavaConfig) -> list[int]:
    """The vision tower's hidden states that the projector reads, counted from the embeddings."""
    chosen = config.vision_feature_layer
    blocks = config.vision_config.num_hidden_layers
    layers = [chosen] if isinstance(chosen, int) else chosen
    return [get_layer_index(layer, blocks) for layer in layers]


class AdaptVisProjector(LlavaMultiModalProjector):
    """vLLM's projector for several layers of features, then pooling, then the normalised tail.

    Its first matrix is split by columns and its second by rows over tensor-parallel ranks, whose
    sums are joined: what follows sees whole tokens on every rank.
    """

    def __init__(
        self,
        config: AdaptVisLlavaConfig,
        *,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(
            vision_hidden_size=config.vision_config.hidden_size * len(feature_layers(config)),
            text_hidden_size=config.text_config.hidden_size,
            projector_hidden_act=config.projector_hidden_act,
            multimodal_projector_bias=config.multimodal_projector_bias,
            quant_config=quant_config,
            prefix=prefix,
        )
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


class AdaptVisProcessingInfo(LlavaProcessingInfo):
    """As many placeholders as the projector leaves tokens."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        compression = self.get_hf_config().compression
        if compression is not None:
            return int(compression)
        return int(super().get_num_image_tokens(image_width=image_width, image_height=image_height))


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=AdaptVisProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class AdaptVisLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """The model of :class:`adaptvis.models.AdaptVisLlavaConfig`, equal to that in transformers."""

    _tower_model_names: list[str]
    # transformers 5 leaves one level of the vision tower's names out.
    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | WeightsMapper(
        orig_to_new_regex={
            re.compile(r"^(model\.)?vision_tower\.(?!vision_model\.)"): "vision_tower.vision_model."
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.feature_layers = feature_layers(self.config)
        towers = self._tower_model_names
        with self._mark_tower_model(vllm_config, "image"):
            self.multi_modal_projector = AdaptVisProjector(
                self.config,
                quant_config=vllm_config.quant_config,
                prefix=maybe_prefix(prefix, "multi_modal_projector"),
            )
        # The same names as before, of which that block noted only the last.
        self._tower_model_names = towers

    def _image_pixels_to_features(self, vision_tower: Any, pixel_values: Tensor) -> Tensor:
        features: Tensor = vision_tower(
            pixel_values,
            select_layers=self.feature_layers,
            feature_select_strategy=self.config.vision_feature_select_strategy,
        )
        return features
