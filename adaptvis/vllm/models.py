"""The models that vLLM learns from the plugin."""

from __future__ import annotations

from vllm import ModelRegistry

# Makes the configuration known to AutoConfig, which every process of vLLM asks.
from adaptvis.models import AdaptVisLlavaForConditionalGeneration

__all__ = ["install_models"]


def install_models() -> None:
    """Register Normalize and Multilayer LLaVA by name; a second call changes nothing.

    vLLM imports the model's code where a model of that architecture is loaded, not here.
    """
    name = AdaptVisLlavaForConditionalGeneration.__name__
    ModelRegistry.register_model(name, f"adaptvis.vllm.llava:{name}")
