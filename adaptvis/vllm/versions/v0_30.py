"""vLLM 0.30."""

from __future__ import annotations

from typing import Any

from adaptvis.vllm.versions.v0_31 import V0_31

__all__ = ["V0_30"]


class V0_30(V0_31):
    """Before configurations knew whether they take images."""

    def sender_cache(self) -> Any:
        from vllm.multimodal.cache import MultiModalProcessorSenderCache

        return MultiModalProcessorSenderCache

    def takes_images(self, model_config: Any) -> bool:
        from vllm.multimodal import MULTIMODAL_REGISTRY

        return bool(MULTIMODAL_REGISTRY.supports_multimodal_inputs(model_config))
