"""Tiny random checkpoints of every family, loadable offline by transformers and vLLM alike.

The models are those of ``hf.tiny_families`` with heads of size 32, the smallest that vLLM's CPU
attention has. Processors come with a video processor, without which vLLM loads none of them.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import transformers
from hf.tiny_families import FAMILIES, build
from safetensors.torch import load_file, save_file

from adaptvis.hf.self_check.tiny_models import tiny_model

__all__ = ["FAMILIES", "write_checkpoint"]

hf: Any = transformers

HEADS, HEAD_SIZE = 2, 32
_CLIP_LIKE = ("llava", "llava_next", "llava_onevision", "gemma3", "paligemma")
_MROPE = {"qwen2_vl": [4, 6, 6], "qwen2_5_vl": [4, 6, 6], "qwen3_vl": [8, 4, 4]}
_VIDEO_PROCESSORS = {
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "internvl": "InternVLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
}


def write_checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """Write weights, configuration, tokenizer and processor of one family to ``folder``."""
    small, processor = build(family)
    config = copy.deepcopy(small.config)
    text = config.get_text_config()
    text.num_attention_heads, text.head_dim = HEADS, HEAD_SIZE
    text.num_key_value_heads = 1
    if family in _MROPE:
        text.rope_parameters["mrope_section"] = _MROPE[family]
    if family == "gemma3":
        text.query_pre_attn_scalar = HEAD_SIZE
    config.dtype = text.dtype = config.vision_config.dtype = "float32"
    model = tiny_model(config, seed)
    model.save_pretrained(folder)
    _with_hub_names(family, folder / "model.safetensors")
    processor = _with_video_processor(family, processor)
    if family == "gemma3":
        # Of two newlines between two images vLLM makes one token, as the published one does.
        processor.tokenizer.add_tokens(["\n" * count for count in (2, 3, 4)])
    processor.save_pretrained(folder)
    return folder


def _with_hub_names(family: str, path: Path) -> None:
    """Weights under the names of the published checkpoints, which vLLM looks for."""
    weights = load_file(path)
    if family in _CLIP_LIKE:
        weights = {
            re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name): tensor
            for name, tensor in weights.items()
        }
    save_file(weights, path, metadata={"format": "pt"})


def _with_video_processor(family: str, processor: Any) -> Any:
    processor = copy.deepcopy(processor)
    kind = _VIDEO_PROCESSORS.get(family)
    if kind is None:
        return processor
    settings = {
        name: getattr(processor.image_processor, name)
        for name in ("patch_size", "merge_size", "size")
        if family in _MROPE
    }
    processor.video_processor = getattr(hf, kind)(**settings)
    return processor
