"""Reading the layout of LLaVA's own code, with the options of Beyond Semantics' additions to it.

A checkpoint is a ``LlavaLlamaForCausalLM`` whose vision tower is a CLIP checkpoint elsewhere, or
what stage 1 leaves: ``mm_projector.bin`` and ``config.json``, to go with a base language model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from adaptvis.errors import CheckpointError, ConfigError, UnsupportedError
from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.conversion.checkpoint import EMBEDDINGS, HEAD, Checkpoint
from adaptvis.models.conversion.files import TensorFolder
from adaptvis.models.conversion.hub import generation_settings
from adaptvis.models.conversion.names import from_original, tower_name
from adaptvis.models.processors import IMAGE_TOKEN, add_placeholders, build_processor
from adaptvis.models.sources import (
    LLAVA_TYPES,
    read_config,
    readable,
    require_image_processor,
)

__all__ = [
    "ARCHITECTURES",
    "FEATURES",
    "PAPER_EPS",
    "PAPER_MAX_NORM",
    "PAPER_TARGET_MEAN",
    "is_original",
    "read_original",
]

# Constants in Beyond Semantics' code, measured on Vicuna-7B (section 5.2).
PAPER_TARGET_MEAN, PAPER_MAX_NORM, PAPER_EPS = 0.83, 1.22, 1e-6
_DECODERS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llama": "llama"}
ARCHITECTURES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM"}
FEATURES = {"patch": "default", "cls_patch": "full"}
_REFUSED = {
    "use_multilayer_features": "multilayer features there pass the tower's last LayerNorm",
    "add_spatial_coordinates": "coordinates enter the projector",
    "add_registers": "register tokens are added",
    "interleave": "coordinates stand between image tokens",
    "twoD_vision_embedding": "two-dimensional positions are added",
    "mm_use_im_start_end": "images stand between special tokens",
}


def is_original(folder: Path) -> bool:
    """Whether a folder is of LLaVA's own code: a whole model, or stage 1's projector."""
    if any(folder.glob("mm_projector.*")):
        return True
    raw = _raw_config(folder)
    return "mm_vision_tower" in raw or "mm_projector_type" in raw


def read_original(
    folder: Path, vision_tower: Path | None, language_model: Path | None
) -> Checkpoint:
    """A checkpoint of LLaVA's own code, with the tower from ``vision_tower``.

    Args:
        vision_tower: folder of the CLIP checkpoint that ``mm_vision_tower`` names.
        language_model: folder of the base model of a stage 1 projector.

    Raises:
        CheckpointError: something is missing.
        UnsupportedError: the model has parts that our architecture does not have.
    """
    raw = _raw_config(folder)
    parts = [_projector_alone(folder), language_model] if _is_stage_1(folder) else [folder]
    if _is_stage_1(folder) and language_model is None:
        raise ConfigError(
            f"{folder} holds a projector alone; name the language model that it was trained for "
            "with --language-model"
        )
    if vision_tower is None:
        raise ConfigError(
            f"{folder} has no vision tower of its own; name the folder of "
            f"{raw.get('mm_vision_tower', 'its CLIP checkpoint')} with --vision-tower"
        )
    base = folder if language_model is None or not _is_stage_1(folder) else language_model
    files = [p if isinstance(p, TensorFolder) else TensorFolder(p) for p in parts if p is not None]
    tower = _tower(vision_tower)
    tower_stored = any("vision_tower.vision_tower." in name for f in files for name in f.by_name)
    places = _places(files, None if tower_stored else tower.files)
    text_config = _text_config(raw if base == folder else _raw_config(base), base)
    with readable("a tokenizer", base):
        tokenizer = AutoTokenizer.from_pretrained(base)
    vocabulary = text_config.vocab_size
    add_placeholders(tokenizer)
    text_config.vocab_size = max(vocabulary, len(tokenizer))
    config = _config(raw, text_config, tower.config, tokenizer)
    config.original = {
        "vocab_size": vocabulary,
        "mm_vision_tower": str(raw.get("mm_vision_tower", vision_tower)),
        "vision_tower_stored": tower_stored,
    }
    processor = build_processor(config, tokenizer, tower.image_processor, tokenizer.chat_template)

    def tensor(name: str) -> Tensor:
        if name not in places:
            raise CheckpointError(f"{folder} lacks the tensor {name}; get all of its shards")
        file, stored_name = places[name]
        return file[stored_name]

    def stored() -> Iterator[tuple[str, Tensor]]:
        by_stored = {(id(file), own): name for name, (file, own) in places.items()}
        for file in {id(f): f for f, _ in places.values()}.values():
            for own, found in file:
                if (id(file), own) in by_stored:
                    yield by_stored[id(file), own], found

    checkpoint = Checkpoint(folder, config, processor, generation_settings(base), stored, tensor)
    if text_config.vocab_size > vocabulary:
        for name in (EMBEDDINGS,) if config.tie_word_embeddings else (EMBEDDINGS, HEAD):
            checkpoint.extra[name] = _with_mean_rows(tensor(name), text_config.vocab_size)
    return checkpoint


class _Tower(NamedTuple):
    config: Any
    image_processor: Any
    files: TensorFolder


def _tower(folder: Path) -> _Tower:
    config = read_config(folder)
    is_llava = config.model_type in LLAVA_TYPES
    vision = getattr(config, "vision_config", config)
    if vision.model_type != "clip_vision_model":
        raise UnsupportedError(
            f"{folder} is a {config.model_type!r} model; LLaVA's own code uses CLIP towers, give "
            "the CLIP checkpoint that mm_vision_tower names"
        )
    require_image_processor(folder)
    with readable("an image processor", folder):
        auto = AutoProcessor if is_llava else AutoImageProcessor
        loaded = auto.from_pretrained(folder)
    return _Tower(vision, loaded.image_processor if is_llava else loaded, TensorFolder(folder))


def _places(
    files: list[TensorFolder], tower: TensorFolder | None
) -> dict[str, tuple[TensorFolder, str]]:
    """For every tensor's hub name, where it is stored and under which name."""
    places: dict[str, tuple[TensorFolder, str]] = {}
    for file in files:
        for own in file.by_name:
            # Only a projector's number needs its shape: a norm has one dimension.
            projector = "mm_projector." in own and own.endswith(".weight")
            name = from_original(own, file[own].ndim if projector else 0)
            if name is not None:
                places.setdefault(name, (file, own))
    if tower is not None:
        for own in tower.by_name:
            name = tower_name(own)
            if name is not None:
                places[name] = (tower, own)
    return places


def _config(
    raw: dict[str, Any], text_config: Any, vision_config: Any, tokenizer: Any
) -> AdaptVisLlavaConfig:
    for name, why in _REFUSED.items():
        if raw.get(name):
            raise UnsupportedError(
                f"This checkpoint was trained with {name} ({why}), which no architecture here "
                "reproduces; run it with the code that it was trained by"
            )
    kind = raw.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        raise UnsupportedError(
            f"The projector is of type {kind!r}; only LLaVA-1.5's 'mlp2x_gelu' can be converted"
        )
    normalize = bool(raw.get("normalize_projector", False))
    pooled = bool(raw.get("compression_after_projection", False))
    if normalize and pooled:
        raise UnsupportedError(
            "This checkpoint normalises tokens before it pools them, and ours are pooled first; "
            "convert one that was trained with normalize_projector or compression alone"
        )
    feature = raw.get("mm_vision_select_feature", "patch")
    if feature not in FEATURES:
        raise UnsupportedError(
            f"mm_vision_select_feature is {feature!r}; 'patch' and 'cls_patch' can be converted"
        )
    config = AdaptVisLlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=raw.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=FEATURES[feature],
        tie_word_embeddings=text_config.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        normalize=normalize,
        target_mean=PAPER_TARGET_MEAN if normalize else None,
        max_norm=PAPER_MAX_NORM if normalize else None,
        norm_eps=PAPER_EPS,
        # The side of the pooled grid, whatever its name and documentation say.
        compression=int(raw["final_spatial_size"]) ** 2 if pooled else None,
        dtype=raw.get("dtype", raw.get("torch_dtype")) or text_config.dtype,
    )
    config.image_seq_length = config.image_tokens
    return config


def _text_config(raw: dict[str, Any], folder: Path) -> Any:
    kind = _DECODERS.get(raw.get("model_type", "llava"), raw.get("model_type"))
    if kind not in ARCHITECTURES:
        raise UnsupportedError(
            f"The language model of {folder} is a {kind!r}; Llama and Mistral decoders of LLaVA's "
            "own code can be converted"
        )
    own = ("mm_", "tune_", "freeze_", "unfreeze_", "use_mm", "image_", "final_spatial", "pretrain_")
    ours = {*_REFUSED, "normalize_projector", "compression_after_projection", "num_vision_tokens"}
    ours |= {"num_registers", "model_type", "architectures", "transformers_version"}
    values = {k: v for k, v in raw.items() if not k.startswith(own) and k not in ours}
    with readable("a language model's configuration", folder):
        return CONFIG_MAPPING[kind].from_dict({"tie_word_embeddings": False, **values})


def _with_mean_rows(table: Tensor, rows: int) -> Tensor:
    mean = table.float().mean(dim=0).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def _is_stage_1(folder: Path) -> bool:
    return any(folder.glob("mm_projector.*")) and not any(
        path for kind in ("model*.safetensors", "pytorch_model*.bin") for path in folder.glob(kind)
    )


def _projector_alone(folder: Path) -> TensorFolder:
    return TensorFolder(folder, "mm_projector")


def _raw_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no readable config.json: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{folder / 'config.json'} is no JSON object")
    return found
