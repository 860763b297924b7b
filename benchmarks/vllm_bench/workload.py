"""The two models of the benchmark and the requests they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image, fromarray

import adaptvis
from adaptvis import AdaptVis, ScalingVis
from adaptvis.config import SteeringConfig
from adaptvis.tasks import get_task

__all__ = ["METHODS", "Request", "large_model", "requests_for", "tiny_model"]

# What is asked of each contestant; "absent" is vLLM without the plugin.
METHODS: dict[str, SteeringConfig | None] = {
    "absent": None,
    "idle": None,
    "scalingvis": ScalingVis(alpha=1.5),
    "adaptvis": AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4),
}
_TEXT_TOKENS = 48
_WORDS = [
    "what",
    "where",
    "is",
    "the",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "of",
    "in",
    "image",
]


@dataclass(frozen=True)
class Request:
    """A question after an image, as text without placeholder or template."""

    question: str
    image: Image


def tiny_model() -> Path:
    """The embedded model: 1.5 M parameters, 49 image tokens."""
    return Path(adaptvis.__file__).parent / "assets" / "models" / "tiny-2ds-seed1"


def large_model(folder: Path, layers: int = 18) -> Path:
    """The random LLaVA of hf_overhead.py (300 M parameters with 18 layers, 576 image tokens).

    Written in the key layout of the hub, with the embedded model's tokenizer.
    """
    from hf_overhead import build_model
    from safetensors.torch import save_file
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from adaptvis.training.tiny.export import CHAT_TEMPLATE, classic_key
    from adaptvis.training.tiny.tokenizer import build_tokenizer

    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    model = build_model(layers)
    model.config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    model.config.text_config.bos_token_id = tokenizer.bos_token_id
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    model.config.architectures = ["LlavaForConditionalGeneration"]
    model.config.save_pretrained(folder)
    weights = {classic_key(key): value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def requests_for(large: bool, count: int) -> list[Request]:
    """The same requests at every call: 2DS questions, or random ones of 48 words."""
    if not large:
        samples = get_task("2ds").load(count, "test")
        return [Request(sample.prompt, sample.images()[0]) for sample in samples]
    generator = np.random.default_rng(0)
    return [
        Request(
            " ".join(generator.choice(_WORDS, _TEXT_TOKENS)),
            fromarray(generator.integers(0, 256, (336, 336, 3), dtype=np.uint8)),
        )
        for _ in range(count)
    ]
