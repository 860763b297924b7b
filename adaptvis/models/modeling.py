"""The library's LLaVA around our projector."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.projector import AdaptVisProjector, NormalizedTail

__all__ = ["AdaptVisLlavaForConditionalGeneration"]


class AdaptVisLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with the options of :class:`AdaptVisLlavaConfig`; without any, LLaVA's own logits.

    Weights have LLaVA's names, and ``multi_modal_projector.norm.weight`` with ``normalize``.
    """

    config: AdaptVisLlavaConfig
    config_class = AdaptVisLlavaConfig

    def __init__(self, config: AdaptVisLlavaConfig):
        super().__init__(config)
        self.model.multi_modal_projector = AdaptVisProjector(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, NormalizedTail):
            nn.init.constant_(module.weight, module.weight.shape[0] ** -0.5)
        else:
            super()._init_weights(module)
