"""The library's LLaVA around our projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, initialization
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.projector import AdaptVisProjector, NormalizedTail

__all__ = ["AdaptVisLlavaForConditionalGeneration", "name_architectures"]


class AdaptVisLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with the options of :class:`AdaptVisLlavaConfig`; without any, LLaVA's own logits.

    Weights have LLaVA's names, and ``multi_modal_projector.norm.weight`` with ``normalize``.
    """

    config: AdaptVisLlavaConfig
    config_class = AdaptVisLlavaConfig

    def __init__(self, config: AdaptVisLlavaConfig):
        super().__init__(config)
        self.model.multi_modal_projector = AdaptVisProjector(config)
        self.register_load_state_dict_pre_hook(_accept_names_on_disk)
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Called after construction and for what a checkpoint lacks."""
        # The library lets the inner LlavaModel initialise its children, and it knows no such tail.
        tail = getattr(self.model.multi_modal_projector, "norm", None)
        if isinstance(tail, NormalizedTail):
            initialization.constant_(tail.weight, tail.weight.shape[0] ** -0.5)
        super().initialize_weights()

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As the library's, always with the key names of the hub's LLaVA-1.5 checkpoints.

        ``vision_tower.vision_model.*``, ``multi_modal_projector.*``, ``language_model.model.*``
        and ``language_model.lm_head.*``, which vLLM expects; ``text_config.architectures`` says
        which decoder it is.
        """
        # The library drops the tower's prefix from a model that was not loaded from such names.
        self._weight_conversions = get_model_conversion_mapping(self, add_legacy=False)
        name_architectures(self.config)
        super().save_pretrained(save_directory, *args, **kwargs)


def name_architectures(config: AdaptVisLlavaConfig) -> None:
    """Write the classes' names into a configuration, the decoder's too."""
    config.architectures = [AdaptVisLlavaForConditionalGeneration.__name__]
    decoder = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.text_config.model_type)
    if decoder is not None:
        config.text_config.architectures = [decoder]


_ON_DISK = (
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
)


def _accept_names_on_disk(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Give tensors that are named as ``save_pretrained`` names them the module's own names.

    The Trainer resumes by ``load_state_dict(strict=False)`` with what is on disk, and would
    silently restore nothing.
    """
    for name in list(state_dict):
        for stored, own in _ON_DISK:
            if name.startswith(prefix + stored):
                rest = name.removeprefix(prefix + stored)
                state_dict[prefix + own + rest] = state_dict.pop(name)
