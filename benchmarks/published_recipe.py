"""AdaptVis as its authors' code runs it, to measure against.

Two whole generations per prompt in eager attention: the first unsteered, for the confidence of its
first token; the second with the logits of the last prompt row to the image span multiplied during
the prefill. One prompt at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from adaptvis.config import AdaptVis

__all__ = ["published_adaptvis"]

_NAME = "published_adaptvis_recipe"
_steering: tuple[float, int, int] | None = None


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = torch.matmul(query, key.transpose(2, 3)) * scaling
    if _steering is not None and logits.shape[2] == logits.shape[3]:
        alpha, start, end = _steering
        logits[:, :, -1, start : end + 1] *= alpha
    if attention_mask is not None:
        logits = logits + attention_mask
    weights = nn.functional.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)


@contextmanager
def _recipe(config: Any, steering: tuple[float, int, int] | None) -> Iterator[None]:
    global _steering
    before = config._attn_implementation
    config._attn_implementation, _steering = _NAME, steering
    try:
        yield
    finally:
        config._attn_implementation, _steering = before, None


@torch.inference_mode()
def published_adaptvis(
    model: Any,
    inputs: dict[str, Tensor],
    config: AdaptVis,
    new_tokens: int,
    prompt_of: Callable[[int], dict[str, Tensor]] | None = None,
) -> Tensor:
    """Generated tokens [B, new_tokens] of the two-generation recipe.

    prompt_of: one prompt's inputs, where they are not simply its row of each tensor.
    """
    decoder_config = model.model.language_model.config
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    answers = []
    for index in range(len(inputs["input_ids"])):
        if prompt_of is None:
            prompt = {name: tensor[index : index + 1] for name, tensor in inputs.items()}
        else:
            prompt = prompt_of(index)
        span = torch.where(prompt["input_ids"][0] == model.config.image_token_id)[0]
        with _recipe(decoder_config, None):
            first = model.generate(
                **prompt, **length, output_scores=True, return_dict_in_generate=True
            )
        confidence = round(float(first.scores[0].softmax(-1).max()), 2)
        alpha = config.alpha_low if confidence < config.threshold else config.alpha_high
        with _recipe(decoder_config, (alpha, int(span[0]), int(span[-1]))):
            answers.append(model.generate(**prompt, **length))
    return torch.cat(answers)[:, inputs["input_ids"].shape[1] :]
