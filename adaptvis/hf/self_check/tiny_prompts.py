"""Two prompts about one picture each for a tiny model, made without a processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from adaptvis.hf.families import family_for

__all__ = ["TOKENS", "tiny_prompts"]

# 0 to 3 are padding, beginning, end and unknown; words begin behind these.
TOKENS: Mapping[str, int] = {
    "image": 4,
    "video": 5,
    "vision_start": 6,
    "vision_end": 7,
    "begin": 8,
    "end": 9,
}
_FIRST_WORD = 10
# Words before and behind the picture: unequal prompts, so that one is padded.
_WORDS = ((3, 4), (1, 9))


def tiny_prompts(model: Any, seed: int = 1) -> dict[str, Tensor]:
    """Inputs of ``generate``: a left-padded batch of two, random pictures and words.

    How many placeholders a picture needs is asked of the model's own vision encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    family = family_for(config)
    pixels = _PIXELS.get(config.model_type, _one_square)(config, generator)
    with torch.no_grad():
        features = family.features_of(model).get_image_features(**pixels)
    total = sum(part.shape[:-1].numel() for part in _parts(features))
    count = total // len(_WORDS)
    before, behind = _marks(config.model_type)
    image = family.placeholder_of(config)
    rows = []
    for first, last in _WORDS:
        words = torch.randint(_FIRST_WORD, 200, (first + last,), generator=generator).tolist()
        rows.append([1, *words[:first], *before, *[image] * count, *behind, *words[first:]])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, **pixels}
    if config.model_type.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == image).long()
    elif config.model_type == "gemma3":
        inputs["token_type_ids"] = (ids == image).long()
    elif config.model_type == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def _parts(features: Any) -> list[Tensor]:
    found = getattr(features, "pooler_output", features)
    return [found] if isinstance(found, Tensor) else list(found)


def _marks(model_type: str) -> tuple[list[int], list[int]]:
    if model_type.startswith("qwen"):
        return [TOKENS["vision_start"]], [TOKENS["vision_end"]]
    if model_type == "gemma3":
        return [TOKENS["begin"]], [TOKENS["end"]]
    return [], []


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _side(config: Any) -> int:
    side = config.vision_config.image_size
    return int(side if isinstance(side, int) else side[0])


def _one_square(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    side = _side(config)
    return {"pixel_values": _noise(generator, len(_WORDS), 3, side, side)}


def _tiles(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """A picture of one tile by two, and the whole of it."""
    side, count = _side(config), len(_WORDS)
    return {
        "pixel_values": _noise(generator, count, 3, 3, side, side),
        "image_sizes": torch.tensor([[side, 2 * side]] * count),
    }


def _patches(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Four by six patches for each picture."""
    vision = config.vision_config
    height, width = 4, 6
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": _noise(generator, len(_WORDS) * height * width, size),
        "image_grid_thw": torch.tensor([[1, height, width]] * len(_WORDS)),
    }


def _pieces(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    side = _side(config)
    return {"pixel_values": _noise(generator, len(_WORDS), 1, 3, side, side)}


_PIXELS: dict[str, Callable[[Any, torch.Generator], dict[str, Tensor]]] = {
    "llava_next": _tiles,
    "llava_onevision": _tiles,
    "qwen2_vl": _patches,
    "qwen2_5_vl": _patches,
    "qwen3_vl": _patches,
    "idefics3": _pieces,
    "smolvlm": _pieces,
}
