"""Seeded requests, and what transformers answers to them one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm import SamplingParams

import adaptvis
from adaptvis import AdaptVis, ScalingVis
from adaptvis.vllm import extra_args

from .tiny_llava import WORDS

Config = ScalingVis | AdaptVis | None


@dataclass(frozen=True)
class Request:
    """A prompt of ``images`` (seeds of noise pictures) and words, and its steering."""

    images: tuple[int, ...]
    words: tuple[str, ...]
    config: Config
    new_tokens: int = 6

    @property
    def text(self) -> str:
        return " ".join([*["<image>"] * len(self.images), *self.words])

    def pictures(self) -> list[Image.Image]:
        return [picture(seed) for seed in self.images]

    def prompt(self) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt": self.text}
        if self.images:
            prompt["multi_modal_data"] = {"image": self.pictures()}
        return prompt

    def sampling(self, **options: Any) -> SamplingParams:
        return SamplingParams(
            temperature=0,
            max_tokens=self.new_tokens,
            ignore_eos=True,
            logprobs=-1,
            extra_args=extra_args(self.config),
            **options,
        )


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def configs(threshold: float) -> list[Config]:
    adaptive = AdaptVis(alpha_low=0.4, alpha_high=2.2, threshold=threshold)
    return [
        None,
        ScalingVis(alpha=1.8),
        ScalingVis(alpha=0.0),
        adaptive,
        adaptive.model_copy(update={"rows": "generated"}),
        ScalingVis(alpha=2.0, layers="1-2", heads="0,3"),
        AdaptVis(alpha_low=0.5, alpha_high=1.7, threshold=threshold, heads=(1,)),
        ScalingVis(alpha=1.6, rows="text_after_image"),
        adaptive.model_copy(update={"rows": "text_after_image"}),
        ScalingVis(alpha=1.0),
    ]


def workload(count: int, threshold: float, block_size: int = 32, seed: int = 0) -> list[Request]:
    """Mixed requests: shared prefixes, lengths around block multiples, text only, two images.

    A fifth of them go on from an earlier prompt, and a tenth repeat one under other steering.
    """
    chance = random.Random(seed)
    choices = configs(threshold)
    requests: list[Request] = []
    while len(requests) < count:
        config = chance.choice(choices)
        tokens = chance.choice([1, 4, 6, 12, 30])
        earlier = chance.choice(requests) if requests else None
        kind = chance.random()
        if earlier is not None and kind < 0.2:
            more = chance.choices(WORDS, k=chance.randint(1, 12))
            request = Request(earlier.images, (*earlier.words, *more), config, tokens)
        elif earlier is not None and kind < 0.3:
            request = replace(earlier, config=config, new_tokens=tokens)
        else:
            images = tuple(
                chance.randrange(6) for _ in range(chance.choices([0, 1, 2], [2, 7, 2])[0])
            )
            # One token for the beginning of the text, 49 for an image.
            length = 1 + 49 * len(images)
            near_block = -length % block_size + chance.choice([-1, 0, 1])
            words = chance.choice([chance.randint(1, 30), max(1, near_block)])
            request = Request(images, tuple(chance.choices(WORDS, k=words)), config, tokens)
        if len(request.images) > 1 and config is not None and config.rows == "text_after_image":
            continue
        requests.append(request)
    return requests


@dataclass(frozen=True)
class Expected:
    """token_ids, and log-probabilities [tokens, vocabulary]."""

    token_ids: tuple[int, ...]
    logprobs: torch.Tensor
    confidence: float | None
    alpha: float


class Transformers:
    """The same model in transformers; every prompt by itself."""

    def __init__(self, folder: Any) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()
        self.model.generation_config.eos_token_id = None

    def encode(self, request: Request) -> Any:
        return self.processor(
            text=request.text, images=request.pictures() or None, return_tensors="pt"
        )

    @torch.inference_mode()
    def answer(self, request: Request) -> Expected:
        inputs = self.encode(request)
        with adaptvis.steer(self.model, request.config, processor=self.processor) as handle:
            output = self.model.generate(
                **inputs,
                max_new_tokens=request.new_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        decision = handle.last[0] if handle.last else None
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
        return Expected(
            tuple(tokens.tolist()),
            torch.stack(output.logits)[:, 0].log_softmax(-1),
            None if decision is None else decision.confidence,
            1.0 if decision is None else decision.alpha,
        )


def logprobs_of(output: Any) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of one completion with ``logprobs=-1``."""
    return torch.tensor(
        [[step[token].logprob for token in range(len(step))] for step in output.logprobs]
    )


def compare(expected: Expected, output: Any) -> tuple[bool, float]:
    """Whether the tokens agree, and the largest error of the log-probabilities."""
    completion = output.outputs[0]
    error = (logprobs_of(completion) - expected.logprobs).abs().max().item()
    return tuple(completion.token_ids) == expected.token_ids, error
