"""Engines over tiny random models, and full attention matrices by transformers' eager attention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hf.helpers import image
from hf.tiny_families import HIDDEN, build

from adaptvis.engine import Query
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.families import Family, known_families, register_family
from adaptvis.models import AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration

PROMPT = "what is left of the red square in the image"


class TinyEngine(HFEngine):
    """An engine over a tiny random model; prompts are encoded as for any model."""

    def __init__(self, family: str, model: Any = None) -> None:
        self.tiny = "llava" if family == "adaptvis_llava" else family
        built, processor = build(self.tiny)
        if family == "adaptvis_llava":
            built = _adaptvis_llava(built)
        if self.tiny == "smolvlm" and processor.video_processor is None:
            # Without torchvision there is none, and its chat template asks for these two numbers.
            processor.video_processor = SimpleNamespace(num_frames=1, fps=1)
        super().__init__(built if model is None else model, processor, family)


def _adaptvis_llava(llava: Any) -> Any:
    if "adaptvis_llava" not in known_families():
        register_family(Family("adaptvis_llava", adjacent_images=True))
    config = AdaptVisLlavaConfig(
        **{k: v for k, v in llava.config.to_dict().items() if k not in ("model_type", "dtype")},
        normalize=True,
        target_mean=HIDDEN**0.5,
        max_norm=2 * HIDDEN**0.5,
    )
    model = AdaptVisLlavaForConditionalGeneration(config).eval()
    model.load_state_dict(llava.state_dict(), strict=False)
    return model.requires_grad_(False)


def query(prompt: str = PROMPT, seed: int = 0) -> Query:
    return Query(prompt, (image(seed),))


@torch.no_grad()
def full_matrices(engine: HFEngine, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Attention weights [H, N, N] of every layer, by the library's own eager attention."""
    configs = [engine.model.config, engine.family.decoder_of(engine.model).config]
    configs += [
        m.config
        for m in engine.family.decoder_of(engine.model).modules()
        if hasattr(m, "layer_idx") and hasattr(m, "config")
    ]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs[1:]:
            config._attn_implementation = "eager"
        return [w[0] for w in engine.model(**inputs, output_attentions=True).attentions]
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
