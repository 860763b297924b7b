"""How large a recipe's model is, in closed form, from its parts' configurations alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import CLIPVisionConfig, LlamaConfig

from adaptvis.errors import ConfigError
from adaptvis.models.sources import read_config
from adaptvis.training.llava.base import source_of
from adaptvis.training.llava.recipe import Recipe

__all__ = ["Shapes", "shapes_of"]

# So that a plan for the published recipes needs no download.
_KNOWN: dict[str, Any] = {
    "lmsys/vicuna-7b-v1.5": LlamaConfig(max_position_embeddings=4096, rms_norm_eps=1e-5),
    "openai/clip-vit-large-patch14-336": CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    ),
}


class Shapes(NamedTuple):
    """Numbers of parameters, and the sizes that activations depend on."""

    language_model: int
    vision_tower: int
    projector: int
    layer: int
    """Parameters of one decoder layer."""
    adapters: int
    hidden: int
    intermediate: int
    key_value: int
    """Width of keys, and of values."""
    layers: int
    vocabulary: int
    image_tokens: int

    @property
    def total(self) -> int:
        """All parameters without adapters."""
        return self.language_model + self.vision_tower + self.projector


def shapes_of(recipe: Recipe, seed: int = 0) -> Shapes:
    """Sizes of the recipe's model, whose weights are not read.

    Raises:
        CheckpointError: a part's configuration cannot be read.
        ConfigError: the language model is not of the Llama kind, or the tower is no CLIP.
    """
    text = _config(source_of(recipe.base.language_model, seed), "text_config")
    tower = _config(source_of(recipe.base.vision_tower, seed), "vision_config")
    if text.model_type != "llama" or tower.model_type != "clip_vision_model":
        raise ConfigError(
            f"A memory plan knows Llama language models and CLIP towers, not {text.model_type!r} "
            f"and {tower.model_type!r}; try a run with --max-steps 2 instead"
        )
    width, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    head = getattr(text, "head_dim", None) or width // text.num_attention_heads
    queries, keys = head * text.num_attention_heads, head * text.num_key_value_heads
    layer = 2 * width * queries + 2 * width * keys + 3 * width * inner + 2 * width
    tables = 1 if text.tie_word_embeddings else 2
    features = recipe.vision_feature_layers
    concatenated = len(features) if isinstance(features, tuple) else 1
    rank = recipe.lora.rank if recipe.lora else 0
    pairs = 2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner)
    grid = tower.image_size // tower.patch_size
    return Shapes(
        language_model=tables * text.vocab_size * width + layers * layer + width,
        vision_tower=_clip(tower),
        projector=(concatenated * tower.hidden_size + 1) * width
        + (width + 1) * width
        + (width if recipe.normalize else 0),
        layer=layer,
        adapters=rank * pairs * layers,
        hidden=width,
        intermediate=inner,
        key_value=keys,
        layers=layers,
        vocabulary=text.vocab_size,
        image_tokens=recipe.compression or grid**2,
    )


def _clip(tower: Any) -> int:
    width, inner = tower.hidden_size, tower.intermediate_size
    patches = (tower.image_size // tower.patch_size) ** 2
    embeddings = width + tower.num_channels * tower.patch_size**2 * width + (patches + 1) * width
    block = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    # Two norms outside the blocks, each with a weight and a bias.
    return int(embeddings + tower.num_hidden_layers * block + 4 * width)


def _config(source: str, part: str) -> Any:
    config = _KNOWN.get(source) or read_config(source)
    return getattr(config, part, config)
