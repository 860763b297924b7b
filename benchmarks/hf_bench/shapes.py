"""Random models of the shapes of three that are in use, built on the device that runs them.

No checkpoint, no tokenizer and no processor: prompts are token numbers, pictures are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor

# The configuration classes take more arguments than their generated signatures tell.
hf: Any = transformers

TEXT_TOKENS = 48
# Spreads the confidences of random logits over (0, 1), so that both branches run.
_HEAD_SCALE = 12.0
_FIRST_WORD = 100  # Below it stand the special tokens of the small models.


@dataclass(frozen=True)
class Shape:
    """config: of the model. grid: patches high and wide, of families that take flat patches.

    image_tokens: placeholders of one picture; pixels: the side of one.
    """

    name: str
    config: Callable[[], Any]
    image_tokens: int
    pixels: int
    grid: tuple[int, int] | None = None
    token_types: str = ""


def _llava(small: bool) -> Any:
    vision = {"projection_dim": 768, "image_size": 336, "patch_size": 14}
    if small:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 2, "image_size": 56}
    else:
        vision |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        vision |= {"num_attention_heads": 16}
    return hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision},
        text_config={"model_type": "llama", **_text(small, 4096, 11008, 32, 32, 32, 32064)},
        image_token_id=_image_token(small, 32000),
        image_seq_length=16 if small else 576,
    )


def _qwen(small: bool) -> Any:
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    vision |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    if small:
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    section = [2, 3, 3] if small else [16, 24, 24]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    text = _text(small, 3584, 18944, 28, 28, 4, 152064) | {"rope_parameters": rope}
    tokens = {name: _image_token(small, 151655) + i for i, name in enumerate(("image", "video"))}
    return hf.Qwen2_5_VLConfig(
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        text_config={"model_type": "qwen2_5_vl_text", **text},
        **{f"{name}_token_id": number for name, number in tokens.items()},
        vision_start_token_id=_image_token(small, 151652) + (2 if small else 0),
        vision_end_token_id=_image_token(small, 151653) + (3 if small else 0),
    )


def _gemma(small: bool) -> Any:
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    vision |= {"num_attention_heads": 16, "image_size": 896, "patch_size": 14}
    if small:
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    text = _text(small, 2560, 10240, 34, 8, 4, 262208)
    text |= {"head_dim": 16 if small else 256, "sliding_window": 8 if small else 1024}
    text["query_pre_attn_scalar"] = text["head_dim"]
    return hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        text_config={"model_type": "gemma3_text", **text},
        mm_tokens_per_image=16 if small else 256,
        image_token_id=_image_token(small, 262144),
        boi_token_index=_image_token(small, 255999) + (2 if small else 0),
        eoi_token_index=_image_token(small, 256000) + (3 if small else 0),
        # Tied, the head's scale would be that of the embeddings, too.
        tie_word_embeddings=False,
    )


def _text(
    small: bool, hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int
) -> dict[str, Any]:
    if small:
        hidden, inner, layers, heads, groups, vocabulary = 64, 128, 2, 4, 2, 320
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }


def _image_token(small: bool, number: int) -> int:
    return 10 if small else number


def shapes(*, small: bool) -> dict[str, Shape]:
    """By name; small ones for a run that measures nothing."""

    def named(name: str, make: Callable[[bool], Any], *sizes: Any, types: str = "") -> Shape:
        return Shape(name, lambda: make(small), *sizes, token_types=types)

    grid = (8, 8) if small else (36, 36)
    found = (
        named("llava-1.5-7b", _llava, *((16, 56) if small else (576, 336))),
        named(
            "qwen2.5-vl-7b",
            _qwen,
            grid[0] * grid[1] // 4,
            14 * grid[0],
            grid,
            types="mm_token_type_ids",
        ),
        named("gemma-3-4b", _gemma, *((16, 64) if small else (256, 896)), types="token_type_ids"),
    )
    return {shape.name: shape for shape in found}


@dataclass(frozen=True)
class RandomModel:
    """A model of a shape in bfloat16, and prompts for it."""

    shape: Shape
    model: Any
    pictures: dict[int, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.model.device)

    def prompts(self, batch: int, seed: int = 0) -> dict[str, Tensor]:
        """``batch`` prompts of one length: text, one picture's tokens, a question."""
        shape, config = self.shape, self.model.config
        generator = torch.Generator().manual_seed(seed)
        vocabulary = config.get_text_config().vocab_size
        below = min(vocabulary, 30000) - 1
        text = torch.randint(_FIRST_WORD, below, (batch, TEXT_TOKENS), generator=generator)
        image = torch.full((batch, shape.image_tokens), int(config.image_token_id))
        parts = [text[:, :16], image, text[:, 16:]]
        if shape.grid is not None:
            # Positions are counted from the mark of a picture's start.
            start = torch.full((batch, 1), int(config.vision_start_token_id))
            parts.insert(1, start)
        ids = torch.cat(parts, dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if shape.token_types:
            inputs[shape.token_types] = (ids == int(config.image_token_id)).long()
        inputs |= self._pixels(batch)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _pixels(self, batch: int) -> dict[str, Tensor]:
        shape, device = self.shape, self.device
        generator = torch.Generator(device=device).manual_seed(batch)
        options: Any = {"generator": generator, "device": device, "dtype": self.model.dtype}
        if shape.grid is None:
            side = shape.pixels
            return {"pixel_values": torch.randn((batch, 3, side, side), **options)}
        high, wide = shape.grid
        patches = torch.randn((batch * high * wide, 3 * 2 * 14 * 14), **options)
        grid = torch.tensor([[1, high, wide]] * batch, device=device)
        return {"pixel_values": patches, "image_grid_thw": grid}

    def alone(self, inputs: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """The inputs of one prompt of a batch."""
        batch = len(inputs["input_ids"])
        return {
            name: tensor.reshape(batch, -1, *tensor.shape[1:])[index]
            for name, tensor in inputs.items()
        }


def normalized_llava(*, small: bool) -> Shape:
    """LLaVA-1.5-7B's shape with the Normalize projector, at Vicuna-7B's norms."""

    def config() -> Any:
        from adaptvis.models import AdaptVisLlavaConfig

        values = _llava(small).to_dict()
        values.pop("model_type")
        norms = {"normalize": True, "target_mean": 0.83, "max_norm": 1.22}
        return AdaptVisLlavaConfig(**values, **norms)

    plain = shapes(small=small)["llava-1.5-7b"]
    return Shape("normalize-llava-1.5-7b", config, plain.image_tokens, plain.pixels)


def build(shape: Shape, device: torch.device, *, head_scale: float = _HEAD_SCALE) -> RandomModel:
    """Weights are allocated and drawn on the device: nothing passes through the host's memory."""
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = hf.AutoModelForImageTextToText.from_config(shape.config(), dtype=torch.bfloat16)
        model.lm_head.weight.mul_(head_scale)
    astray = {str(t.device) for t in (*model.parameters(), *model.buffers())} - {str(device)}
    if astray:
        raise RuntimeError(f"parts of the model were built on {', '.join(sorted(astray))}")
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return RandomModel(shape, model.eval().requires_grad_(False))


class SyntheticProcessor:
    """In the place of a processor: every query becomes a prompt of the random model."""

    chat_template = "none"

    def __init__(self, model: RandomModel) -> None:
        self.model = model
        self.tokenizer = SimpleNamespace(padding_side="left", convert_ids_to_tokens="<{}>".format)

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        """Nothing reads the text."""
        return ""

    def __call__(self, *, text: list[str], **_: Any) -> Any:
        return hf.BatchFeature(self.model.prompts(len(text)))

    def batch_decode(self, tokens: Tensor, **_: Any) -> list[str]:
        """Numbers for words."""
        return [" ".join(map(str, row)) for row in tokens.tolist()]
