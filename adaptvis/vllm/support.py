"""What of vLLM is supported. Everything that was not tested is refused, never run wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from adaptvis.vllm.versions import library

# Model types that the tests run against transformers.
FAMILIES = (
    "llava",
    "adaptvis_llava",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "internvl",
    "idefics3",
    "smolvlm",
)
UNTESTED = "ADAPTVIS_UNTESTED"
RUST_FRONT_END = "VLLM_USE_RUST_FRONTEND"

__all__ = [
    "RUST_FRONT_END",
    "UNTESTED",
    "misread",
    "rust_front_end",
    "sees_last_image_token",
    "switched_on",
    "unsupported",
    "uses_sliding_window",
]


def switched_on(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an environment variable says yes: it is set, and not to a word for no."""
    value = environment.get(variable, "").strip().casefold()
    return value not in ("", "0", "false", "no", "off", "none")


def rust_front_end(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `vllm serve` would start its Rust front end, which plugins do not reach."""
    return switched_on(RUST_FRONT_END, environment)


def unsupported(vllm_config: Any) -> str:
    """Why requests of this engine cannot be steered, in one sentence; empty if they can."""
    model = vllm_config.model_config
    parallel = vllm_config.parallel_config
    if model is None or model.runner_type != "generate":
        return "only models that generate text can be steered"
    if not library().takes_images(model):
        return "the model takes no images"
    if model.is_encoder_decoder:
        return "the model is an encoder-decoder, whose images are not tokens of the prompt"
    if model.use_mla:
        return "multi-head latent attention (MLA) is not supported"
    if getattr(model, "is_hybrid", False):
        return "models with state-space layers are not supported"
    if model.hf_config.model_type == "paligemma":
        return (
            "PaliGemma is not supported: all tokens of its prompts should see each other, and in "
            "vLLM they do not"
        )
    if model.hf_config.model_type not in FAMILIES and not switched_on(UNTESTED):
        return (
            f"the model family {model.hf_config.model_type} was not tested; set {UNTESTED}=1 to "
            "steer it all the same, at your own risk"
        )
    if parallel.pipeline_parallel_size > 1:
        return "pipeline parallelism is not supported; use tensor parallelism"
    if parallel.data_parallel_size > 1:
        return "data parallelism is not supported; start one server per replica"
    if parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1:
        return "context parallelism is not supported"
    if parallel.use_ubatching:
        return "dual-batch overlap is not supported"
    if getattr(parallel, "enable_batch_sharded_sampling", False):
        return "batch-sharded sampling is not supported"
    if vllm_config.speculative_config is not None:
        return "speculative decoding is not supported"
    if vllm_config.lora_config is not None:
        return "LoRA is not supported"
    if vllm_config.kv_transfer_config is not None:
        return "KV connectors are not supported"
    if vllm_config.cache_config.cache_dtype not in ("auto", "bfloat16", "float16", "float32"):
        return (
            f"a key-value cache in {vllm_config.cache_config.cache_dtype} is not supported; use "
            "--kv-cache-dtype auto"
        )
    if vllm_config.compilation_config.pass_config.fuse_attn_quant:
        return "attention fused with quantisation (fuse_attn_quant) is not supported"
    if vllm_config.cache_config.kv_sharing_fast_prefill:
        return "--kv-sharing-fast-prefill is not supported"
    return ""


def misread(vllm_config: Any) -> str:
    """What of the model vLLM's own code would pass over, in one sentence; empty if nothing.

    vLLM's LLaVA builds a projector for one layer: weights for several fail in it without a word.
    """
    model = vllm_config.model_config
    config = None if model is None else model.hf_config
    layers = getattr(config, "vision_feature_layer", None)
    if getattr(config, "model_type", None) != "llava" or isinstance(layers, int | None):
        return ""
    if len(layers) == 1:
        return ""
    return (
        f"vLLM's LLaVA reads one layer of the vision tower, and vision_feature_layer names several "
        f"({list(layers)}); set model_type to 'adaptvis_llava' and architectures to "
        "['AdaptVisLlavaForConditionalGeneration'] in config.json, which is the same model and "
        "served"
    )


def uses_sliding_window(model_config: Any) -> bool:
    """Whether some layer forgets: blocks behind its window may be gone."""
    text = model_config.hf_text_config
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return any("sliding" in kind or "chunked" in kind for kind in kinds)
    return getattr(text, "sliding_window", None) is not None


def sees_last_image_token(model_config: Any) -> bool:
    """Whether a prompt that ends in an image cannot have its last row run again by itself.

    Image tokens that see each other (Gemma 3) would have to run again with it, and features that
    are added in deeper layers (Qwen3-VL) are gone by then.
    """
    vision = getattr(model_config.hf_config, "vision_config", None)
    return bool(getattr(model_config, "is_mm_prefix_lm", False)) or hasattr(
        vision, "deepstack_visual_indexes"
    )
