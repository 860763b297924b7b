"""A random-weight model of every family, small enough to be built in a tenth of a second.

Three decoder layers of width 64, head size 16, in float32 on the CPU: real classes of the installed
transformers with small configurations, and weights large enough for attention to prefer something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from adaptvis.errors import UnsupportedError

__all__ = [
    "HIDDEN",
    "VOCABULARY",
    "randomise",
    "text_config",
    "tiny_config",
    "tiny_families",
    "tiny_model",
    "vision_config",
]

# The configuration classes take more arguments than their generated signatures tell.
hf: Any = transformers

HIDDEN, HEAD_SIZE, LAYERS, VOCABULARY = 64, 16, 3, 320
PINPOINTS_NEXT = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
PINPOINTS_ONEVISION = [[56 * rows, 56 * columns] for rows in range(1, 5) for columns in range(1, 5)]

# With random weights a tied head would only repeat the last token.
_UNTIED = {"tie_word_embeddings": False}

Tokens = Mapping[str, int]


def tiny_families() -> tuple[str, ...]:
    """The ``model_type`` of every family that has a small model."""
    return tuple(_CONFIGS)


def tiny_config(model_type: str, tokens: Tokens, vocabulary: int = VOCABULARY) -> Any:
    """The small configuration of a family.

    Args:
        tokens: token ids of ``image``, and of what else the family's prompts have: ``video``,
            ``vision_start``, ``vision_end``, ``begin`` and ``end`` of an image.

    Raises:
        UnsupportedError: no small configuration of this family is known.
    """
    if model_type not in _CONFIGS:
        raise UnsupportedError(
            f"No small model of the family {model_type!r} is known, so it cannot be checked; known "
            f"are {', '.join(sorted(_CONFIGS))}"
        )
    return _CONFIGS[model_type](tokens, vocabulary)


def tiny_model(config: Any, seed: int = 0) -> Any:
    """The model of a configuration: float32, in eval mode, without gradients."""
    # Registers our own architectures.
    import adaptvis.models  # noqa: F401

    with torch.random.fork_rng(devices=[]):
        model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    randomise(model, seed)
    # Nothing ends a generation early: max_new_tokens is the number of tokens.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval().requires_grad_(False)


def text_config(kind: str, vocabulary: int, kv_heads: int = 2, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_UNTIED,
        **extra,
    }


def vision_config(kind: str, image_size: Any, patch_size: Any, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **extra,
    }


def _llava(tokens: Tokens, vocabulary: int) -> Any:
    return hf.LlavaConfig(
        vision_config=vision_config("clip_vision_model", 56, 8, projection_dim=32),
        text_config=text_config("llama", vocabulary, kv_heads=4),
        image_token_id=tokens["image"],
        image_seq_length=49,
    )


def _adaptvis_llava(tokens: Tokens, vocabulary: int) -> Any:
    """Every option on; 49 patches pooled to 25, so that neighbouring areas share patches."""
    from adaptvis.models import AdaptVisLlavaConfig

    return AdaptVisLlavaConfig(
        vision_config=vision_config("clip_vision_model", 56, 8, projection_dim=32),
        text_config=text_config("llama", vocabulary, kv_heads=4),
        image_token_id=tokens["image"],
        image_seq_length=25,
        vision_feature_layer=[1, 2],
        normalize=True,
        # The norms of the random token embeddings.
        target_mean=float(HIDDEN**0.5),
        max_norm=1.2 * HIDDEN**0.5,
        compression=25,
    )


def _llava_next(tokens: Tokens, vocabulary: int) -> Any:
    return hf.LlavaNextConfig(
        vision_config=vision_config("clip_vision_model", 56, 14, projection_dim=32),
        text_config=text_config("mistral", vocabulary, sliding_window=None),
        image_token_id=tokens["image"],
        image_grid_pinpoints=PINPOINTS_NEXT,
        image_seq_length=16,
    )


def _llava_onevision(tokens: Tokens, vocabulary: int) -> Any:
    return hf.LlavaOnevisionConfig(
        vision_config=vision_config("siglip_vision_model", 56, 14, vision_use_head=False),
        text_config=text_config("qwen2", vocabulary),
        image_token_id=tokens["image"],
        video_token_id=tokens["video"],
        image_grid_pinpoints=PINPOINTS_ONEVISION,
        # Fewer than the grid's 16 tiles, so that large images are scaled down as in real use.
        vision_aspect_ratio="anyres_max_4",
    )


def _qwen(
    config_class: Any,
    tokens: Tokens,
    vocabulary: int,
    patch_size: int,
    vision: dict[str, Any],
    mrope_section: list[int],
    **rope: Any,
) -> Any:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": mrope_section,
        **rope,
    }
    family = config_class.model_type
    text = text_config(f"{family}_text", vocabulary, rope_parameters=rope)
    if family != "qwen3_vl":
        del text["head_dim"]
    return config_class(
        vision_config={"patch_size": patch_size, "depth": 2, "num_heads": 2, **vision},
        text_config=text,
        image_token_id=tokens["image"],
        video_token_id=tokens["video"],
        vision_start_token_id=tokens["vision_start"],
        vision_end_token_id=tokens["vision_end"],
    )


def _qwen2_vl(tokens: Tokens, vocabulary: int) -> Any:
    vision = {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    return _qwen(hf.Qwen2VLConfig, tokens, vocabulary, 14, vision, [2, 3, 3])


def _qwen2_5_vl(tokens: Tokens, vocabulary: int) -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": HIDDEN,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    return _qwen(hf.Qwen2_5_VLConfig, tokens, vocabulary, 14, vision, [2, 3, 3])


def _qwen3_vl(tokens: Tokens, vocabulary: int) -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    return _qwen(
        hf.Qwen3VLConfig, tokens, vocabulary, 16, vision, [4, 2, 2], mrope_interleaved=True
    )


def _gemma3(tokens: Tokens, vocabulary: int) -> Any:
    return hf.Gemma3Config(
        vision_config=vision_config("siglip_vision_model", 64, 8, vision_use_head=False),
        text_config=text_config(
            "gemma3_text",
            vocabulary,
            query_pre_attn_scalar=HEAD_SIZE,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=16,
        image_token_id=tokens["image"],
        boi_token_index=tokens["begin"],
        eoi_token_index=tokens["end"],
        **_UNTIED,
    )


def _internvl(tokens: Tokens, vocabulary: int) -> Any:
    return hf.InternVLConfig(
        vision_config=vision_config(
            "internvl_vision", [64, 64], [8, 8], layer_scale_init_value=1.0
        ),
        text_config=text_config("qwen2", vocabulary),
        image_token_id=tokens["image"],
        image_seq_length=16,
        downsample_ratio=0.5,
        **_UNTIED,
    )


def _idefics3(tokens: Tokens, vocabulary: int) -> Any:
    return hf.Idefics3Config(
        vision_config=vision_config("idefics3_vision", 64, 8),
        text_config=text_config("llama", vocabulary),
        image_token_id=tokens["image"],
        scale_factor=2,
        pad_token_id=0,
    )


def _smolvlm(tokens: Tokens, vocabulary: int) -> Any:
    return hf.SmolVLMConfig(
        vision_config=vision_config("smolvlm_vision", 64, 8),
        text_config=text_config("llama", vocabulary),
        image_token_id=tokens["image"],
        scale_factor=2,
        pad_token_id=0,
    )


def _paligemma(tokens: Tokens, vocabulary: int) -> Any:
    return hf.PaliGemmaConfig(
        vision_config=vision_config(
            "siglip_vision_model", 56, 14, vision_use_head=False, projection_dim=HIDDEN
        ),
        text_config=text_config("gemma", vocabulary, kv_heads=1),
        projection_dim=HIDDEN,
        image_token_id=tokens["image"],
        **_UNTIED,
    )


_CONFIGS: dict[str, Callable[[Tokens, int], Any]] = {
    "llava": _llava,
    "adaptvis_llava": _adaptvis_llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "paligemma": _paligemma,
}


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Weights large enough that attention logits have a standard deviation of order one."""
    generator = torch.Generator().manual_seed(seed)
    # Gemma multiplies its embeddings by the square root of the hidden size.
    gemma = model.config.get_text_config().model_type.startswith("gemma")
    token_std = HIDDEN**-0.5 if gemma else 1.0

    def fill(parameter: Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)

    for name, parameter in model.named_parameters():
        if re.search(r"[qk]_proj\.weight|qkv\.weight", name):
            fill(parameter, 0.2)
        elif "norm" in name or "ln_q" in name:
            # Close to what each class starts with: ones, or Gemma's zeros (it adds the one).
            start = parameter.mean().item()
            fill(parameter, 0.1, mean=start)
        elif "embed_tokens" in name:
            fill(parameter, token_std)
        elif "embed" in name or "newline" in name or "cls_token" in name:
            fill(parameter, 0.3)
        elif name.endswith("lm_head.weight"):
            fill(parameter, 0.4)
        elif parameter.ndim == 1:
            fill(parameter, 0.05, mean=1.0 if "lambda" in name else 0.0)
        elif name.endswith("mm_input_projection_weight"):
            fill(parameter, parameter.shape[0] ** -0.5)
        else:
            fill(parameter, parameter[0].numel() ** -0.5)
