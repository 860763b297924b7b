"""Inputs for the tiny families, and running a model with or without steering."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from hf.eager_reference import Spec, reference_generate
from hf.tiny_families import FAMILIES, build, encode
from PIL import Image
from transformers import LlavaForConditionalGeneration

from adaptvis.hf.families import family_for
from adaptvis.hf.library import cache_argument

STEPS = 4
TOLERANCE = 1e-4
# What this transformers calls a key-value cache: ``model(**inputs, **{CACHE: cache})``.
CACHE = cache_argument(inspect.signature(LlavaForConditionalGeneration.forward).parameters)

__all__ = [
    "CACHE",
    "FAMILIES",
    "STEPS",
    "TOLERANCE",
    "Case",
    "build",
    "generate",
    "image",
]


def image(seed: int, width: int = 56, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PROMPTS = ["where is the cat", "what is left of the dog in the image", "right or left"]


class Case:
    """A family's model with one batch of unequal prompts."""

    def __init__(self, family: str, prompts=None, images=None) -> None:
        self.family = family
        self.model, self.processor = build(family)
        self.decoder = family_for(self.model.config).decoder_of(self.model)
        self.prompts = PROMPTS[:2] if prompts is None else prompts
        self.images = [[image(i)] for i in range(len(self.prompts))] if images is None else images
        self.inputs = encode(family, self.processor, self.prompts, self.images)
        self.ids = self.inputs["input_ids"]
        self.columns = self.ids == self.model.config.image_token_id
        self.last_row = torch.zeros_like(self.columns)
        self.last_row[:, -1] = True

    def alone(self, index: int) -> Case:
        return Case(self.family, [self.prompts[index]], [self.images[index]])

    def reference(self, alpha, rows=None, columns=None, steps=STEPS, generate=None, **options):
        """Tokens and logits [steps, B, V] of full eager steering; alpha None steers nothing."""
        assert "generate" not in self.model.__dict__, "the reference would run through our hooks"
        if alpha is None:
            spec = None
        else:
            alpha = torch.as_tensor(alpha, dtype=torch.float32).expand(len(self.ids))
            spec = Spec(
                self.last_row if rows is None else rows,
                self.columns if columns is None else columns,
                alpha,
                **options,
            )
        return reference_generate(
            self.model, self.decoder, self.inputs, spec, steps, **(generate or {})
        )

    def text_rows(self):
        """Text rows after the first image token, by plain loops."""
        rows = torch.zeros_like(self.columns)
        for b in range(len(self.ids)):
            seen = False
            for n in range(self.ids.shape[1]):
                seen = seen or bool(self.columns[b, n])
                rows[b, n] = seen and not self.columns[b, n]
        return rows


@torch.no_grad()
def generate(model, inputs, steps=STEPS, **options):
    """Greedy tokens and raw logits [steps, B, V] through ordinary ``generate``."""
    result = model.generate(
        **inputs,
        **{
            "max_new_tokens": steps,
            "min_new_tokens": steps,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
            **options,
        },
    )
    return result.sequences, torch.stack(result.logits)
