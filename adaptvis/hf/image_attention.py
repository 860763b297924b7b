"""Where the last prompt token of a transformers model looks, without and with steering.

The prompt runs once under the steered pass's attention with all coefficients 1, and once as it is
steered; both give up the last row's weights on the way. One prompt at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptvis.attention_map import AttentionMap
from adaptvis.config import TOKEN_METHODS, SteeringConfig
from adaptvis.engine import Query
from adaptvis.errors import PromptError
from adaptvis.hf.active import steered_on_top, without_steering
from adaptvis.hf.attention import (
    SteeredPass,
    attention_configs,
    observed_last_row,
    steered_pass,
)
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.geometry import image_token_boxes

__all__ = ["image_attention", "token_places"]


@torch.inference_mode()
def image_attention(
    engine: HFEngine, query: Query, config: SteeringConfig | None = None
) -> AttentionMap:
    """The last prompt token's attention over the image tokens of one question.

    Args:
        config: steers the second of the two maps, on top of what the model is patched with; with
            None that alone steers it, and on an unpatched model the two are equal. The first map
            is never steered.

    Raises:
        PromptError: the prompt has no image, or its tokens are not those that the image implies.
        UnknownFamilyError, UnsupportedError: the tokens' places in the image are not known.
    """
    if not query.images:
        raise PromptError("A prompt without an image has no attention on one; leave it out")
    inputs = engine.encode([query])
    tokens = inputs["input_ids"][0] == engine.family.placeholder_of(engine.model.config)
    image, boxes = token_places(engine, query, int(tokens.sum()))
    with without_steering(engine.model):
        unsteered = _plain(engine, inputs, tokens)
    with steered_on_top(engine.model, config, engine.processor) as active:
        if not active:
            steered = unsteered
        elif any(isinstance(one, TOKEN_METHODS) for one in active):
            # Coefficients on top are looked at last, in the second pass.
            steered = _plain(engine, inputs, tokens)
        else:
            found = _Weights(tokens)
            with observed_last_row(found):
                engine.model(**inputs)
            # Nothing is run again for a prompt that is not steered.
            steered = found.rows() if found.by_layer else unsteered
    return AttentionMap(image, boxes, unsteered, steered)


class _Weights:
    """Collects the last row's weights on the image tokens of one prompt, by layer."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.by_layer: dict[int, Tensor] = {}

    def __call__(self, layer: int, weights: Tensor) -> None:
        # Sliding windows no longer show the first keys.
        missing = len(self.tokens) - weights.shape[-1]
        mean = torch.nn.functional.pad(weights[0].mean(dim=0), (max(missing, 0), 0))
        self.by_layer[layer] = mean[: len(self.tokens)][self.tokens.to(mean.device)].float().cpu()

    def rows(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return torch.stack([self.by_layer[layer] for layer in sorted(self.by_layer)]).numpy()


def _plain(
    engine: HFEngine, inputs: dict[str, Tensor], tokens: Tensor
) -> np.ndarray[Any, np.dtype[np.float32]]:
    ids = inputs["input_ids"]
    neutral = SteeredPass(
        columns=tokens[None],
        row_alpha=torch.ones(ids.shape, device=ids.device),
        first_row=ids.shape[1],
    )
    found = _Weights(tokens)
    decoder = engine.family.decoder_of(engine.model)
    with steered_pass(attention_configs(decoder), neutral), observed_last_row(found):
        engine.model(**inputs)
    return found.rows()


def token_places(
    engine: HFEngine, query: Query, count: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """For each of the prompt's ``count`` image tokens, in order, its place.

    Returns:
        int64 [T], the image it belongs to, and float64 [T, 4], its box (left, top, right, bottom)
        as fractions of that image; NaN without a place in it.

    Raises:
        PromptError: the images imply another number of tokens.
        UnknownFamilyError, UnsupportedError: the places are not known.
    """
    images, boxes = [], []
    for number, picture in enumerate(query.images):
        found = image_token_boxes(
            engine.processor,
            engine.model.config,
            picture.size,
            images_in_prompt=len(query.images),
        )
        width, height = picture.size
        boxes.append((found / torch.tensor([width, height, width, height])).numpy())
        images.append(np.full(len(found), number))
    image = np.concatenate(images)
    if len(image) != count:
        raise PromptError(
            f"The prompt has {count} image tokens and its images imply {len(image)}; send one "
            "placeholder per image"
        )
    return image, np.concatenate(boxes)
