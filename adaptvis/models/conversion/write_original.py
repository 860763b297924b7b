"""Writing the layout of LLaVA's own code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.conversion.checkpoint import EMBEDDINGS, HEAD, Checkpoint, write_weights
from adaptvis.models.conversion.files import SHARD_BYTES
from adaptvis.models.conversion.names import to_original
from adaptvis.models.conversion.read_original import (
    ARCHITECTURES,
    FEATURES,
    PAPER_EPS,
    PAPER_MAX_NORM,
    PAPER_TARGET_MEAN,
)

__all__ = ["write_original"]


def write_original(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    vision_tower: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """The layout of LLaVA's own code; all weights, the projector's too, as safetensors.

    The tower is written where the checkpoint may have changed it: always, unless it came from this
    layout without one. Rows that were added for ``<image>`` and ``<pad>`` are taken off again.

    Args:
        vision_tower: name of the CLIP checkpoint, for ``mm_vision_tower``.

    Raises:
        UnsupportedError: LLaVA's own code, or Beyond Semantics', cannot run the model.
    """
    config = checkpoint.config
    original = getattr(config, "original", None) or {}
    name = vision_tower or original.get("mm_vision_tower")
    if not name:
        raise ConfigError(
            "LLaVA's own layout names the CLIP checkpoint of its tower; give it with --vision-tower"
        )
    settings = _own_settings(config)
    stored = original.get("vision_tower_stored", True)
    rows = original.get("vocab_size", config.text_config.vocab_size)
    pooled = config.compression is not None

    def keep(name: str, tensor: Tensor) -> Tensor | None:
        if name.startswith("vision_tower.") and not stored:
            return None
        return tensor[:rows] if name in (EMBEDDINGS, HEAD) else tensor

    def rename(name: str) -> str:
        return to_original(name, normalize=config.normalize, pooled=pooled)

    write_weights(checkpoint, folder, rename=rename, keep=keep, shard_bytes=shard_bytes)
    kind = config.text_config.model_type
    values = config.text_config.to_dict() | settings
    values |= {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": f"llava_{kind}",
        "vocab_size": rows,
        "mm_vision_tower": name,
        "unfreeze_mm_vision_tower": bool(stored),
    }
    values.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    if checkpoint.generation_config is not None:
        checkpoint.generation_config.save_pretrained(folder)
    checkpoint.processor.tokenizer.save_pretrained(folder)


def _own_settings(config: AdaptVisLlavaConfig) -> dict[str, Any]:
    if config.text_config.model_type not in ARCHITECTURES:
        raise _refused(f"its decoder is a {config.text_config.model_type!r}, not Llama or Mistral")
    if config.vision_config.model_type != "clip_vision_model":
        raise _refused(f"its tower is a {config.vision_config.model_type!r}, not CLIP")
    if not config.multimodal_projector_bias or config.projector_hidden_act != "gelu":
        raise _refused("its projector is not two layers with biases and a GELU between them")
    if not isinstance(config.vision_feature_layer, int):
        raise _refused("it takes several layers of the tower (vision_feature_layers)")
    if config.normalize and config.compression is not None:
        raise _refused("it pools before it normalises, and there it is the other way round")
    norms = (config.target_mean, config.max_norm, config.norm_eps)
    if config.normalize and norms != (PAPER_TARGET_MEAN, PAPER_MAX_NORM, PAPER_EPS):
        raise _refused(
            f"its target_mean, max_norm and norm_eps are {norms}, and there they are fixed at "
            f"{PAPER_TARGET_MEAN}, {PAPER_MAX_NORM} and {PAPER_EPS}; train one at those norms "
            f"(adaptvis train --set target_mean={PAPER_TARGET_MEAN} --set "
            f"max_norm={PAPER_MAX_NORM})"
        )
    features = {strategy: feature for feature, strategy in FEATURES.items()}
    settings: dict[str, Any] = {
        "use_mm_proj": True,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": features[config.vision_feature_select_strategy],
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "normalize_projector": config.normalize,
        "compression_after_projection": config.compression is not None,
        "num_vision_tokens": config.grid**2,
    }
    if config.compression is not None:
        settings["final_spatial_size"] = math.isqrt(config.compression)
    return settings


def _refused(why: str) -> UnsupportedError:
    return UnsupportedError(f"LLaVA's own code cannot run this model: {why}")
