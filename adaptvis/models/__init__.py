"""Normalize and Multilayer LLaVA for transformers; importing this registers the Auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlavaProcessor
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from adaptvis.models.build import assemble
from adaptvis.models.configuration import MODEL_TYPE, AdaptVisLlavaConfig
from adaptvis.models.modeling import AdaptVisLlavaForConditionalGeneration
from adaptvis.models.projector import AdaptVisProjector, NormalizedTail
from adaptvis.models.text_norms import measure_text_norms

__all__ = [
    "MODEL_TYPE",
    "AdaptVisLlavaConfig",
    "AdaptVisLlavaForConditionalGeneration",
    "AdaptVisProjector",
    "NormalizedTail",
    "assemble",
    "measure_text_norms",
]

AutoConfig.register(MODEL_TYPE, AdaptVisLlavaConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration, exist_ok=True
)
AutoProcessor.register(AdaptVisLlavaConfig, LlavaProcessor, exist_ok=True)
# Weights on disk have the names of LLaVA's.
register_checkpoint_conversion_mapping(
    MODEL_TYPE, get_checkpoint_conversion_mapping("llava") or [], overwrite=True
)
