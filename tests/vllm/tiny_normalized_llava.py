"""Random Normalize and Multilayer LLaVAs in the layout of the hub, for transformers and vLLM."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adaptvis.models import MODEL_TYPE

from .tiny_llava import HIDDEN, write_random_llava

__all__ = ["NORMALIZE", "write_random_normalized_llava"]

# As long as the random text embeddings; the clip takes part of the tokens.
NORMALIZE = {"normalize": True, "target_mean": 11.3, "max_norm": 1.1}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "image_size": 56,
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
}


def write_random_normalized_llava(
    folder: Path, *, siglip: bool = False, nested: bool = True, seed: int = 0, **options: Any
) -> Path:
    """A random LLaVA with ``options`` of AdaptVisLlavaConfig.

    Args:
        siglip: its tower is a SigLIP, which has no class token. nested: weights of the tower are
            named as on the hub, below ``vision_model``, and not as transformers 5 names them.
    """
    write_random_llava(folder, seed=seed)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": MODEL_TYPE,
        "architectures": ["AdaptVisLlavaForConditionalGeneration"],
    } | options
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed + 1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if siglip:
        config |= {"vision_config": _SIGLIP, "vision_feature_select_strategy": "full"}
        weights = {
            name: weight
            for name, weight in weights.items()
            if "class_embedding" not in name and "pre_layrnorm" not in name
        }
        vision = "vision_tower.vision_model."
        weights[vision + "embeddings.patch_embedding.bias"] = 0.05 * noise(HIDDEN)
        weights[vision + "embeddings.position_embedding.weight"] = noise(49, HIDDEN)
        weights |= _pooling_head(vision, noise)
    layers = config["vision_feature_layer"]
    width = HIDDEN * (1 if isinstance(layers, int) else len(layers))
    weights["multi_modal_projector.linear_1.weight"] = noise(HIDDEN, width) * width**-0.5
    if config.get("normalize"):
        # Of the clip's length: about half of the tokens come out longer.
        weight = 1 + 0.5 * noise(HIDDEN)
        weights["multi_modal_projector.norm.weight"] = (
            NORMALIZE["max_norm"] * weight / weight.norm()
        )
    if not nested:
        weights = {
            re.sub(r"^vision_tower\.vision_model\.", "vision_tower.", name): weight
            for name, weight in weights.items()
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    _fit_processor(folder / "processor_config.json", options.get("compression"), siglip)
    return folder


def _pooling_head(vision: str, noise: Any) -> dict[str, torch.Tensor]:
    """What a SigLIP has besides, and nobody reads here."""
    shapes = {
        "probe": (1, 1, HIDDEN),
        "attention.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "attention.in_proj_bias": (3 * HIDDEN,),
        "attention.out_proj.weight": (HIDDEN, HIDDEN),
        "attention.out_proj.bias": (HIDDEN,),
        "layernorm.weight": (HIDDEN,),
        "layernorm.bias": (HIDDEN,),
        "mlp.fc1.weight": (256, HIDDEN),
        "mlp.fc1.bias": (256,),
        "mlp.fc2.weight": (HIDDEN, 256),
        "mlp.fc2.bias": (HIDDEN,),
    }
    return {f"{vision}head.{name}": noise(*shape) for name, shape in shapes.items()}


def _fit_processor(path: Path, compression: int | None, siglip: bool) -> None:
    settings = json.loads(path.read_text())
    if compression is not None:
        settings["patch_size"] = 56 // math.isqrt(compression)
    if siglip:
        settings |= {"num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}
    path.write_text(json.dumps(settings))
