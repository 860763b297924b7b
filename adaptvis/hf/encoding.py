"""From images and prompts to what a transformers model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from adaptvis.engine import Query
from adaptvis.errors import PromptError
from adaptvis.hf.families import family_for
from adaptvis.model_inputs import context_length, prompt_text

__all__ = ["encode"]


def encode(queries: Sequence[Query], model: Any, processor: Any, source: str) -> dict[str, Tensor]:
    """Processor outputs for a batch, on the model's device and in its dtype.

    Args:
        source: where the model is from, for messages.

    Raises:
        PromptError: the processor refuses the batch, a prompt's images and placeholders do not
            agree, or a prompt leaves no room for an answer.
    """
    config = model.config
    texts = [prompt_text(processor, query, source, config) for query in queries]
    images = [list(query.images) for query in queries]
    try:
        inputs = processor(
            images=images if any(images) else None,
            text=texts,
            padding=True,
            return_tensors="pt",
        )
    except (ValueError, IndexError) as error:
        raise PromptError(f"The processor refused the batch: {error}") from None
    # PaliGemma's processor always adds them, and they ask the model for a training loss.
    inputs.pop("labels", None)
    family = family_for(config)
    placeholder = family.placeholder_of(config)
    for query, ids in zip(queries, inputs["input_ids"], strict=True):
        if bool(query.images) != bool((ids == placeholder).any()):
            raise PromptError(
                f"A prompt comes with {len(query.images)} images and has "
                f"{int((ids == placeholder).sum())} image tokens; put one placeholder per "
                f"image into it: {query.prompt[:80]!r}"
            )
    most = context_length(family.decoder_of(model).config)
    _check_lengths(queries, inputs["attention_mask"], most)
    inputs = inputs.to(model.device)
    for name, tensor in inputs.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            inputs[name] = tensor.to(model.dtype)
    return dict(inputs)


def _check_lengths(queries: Sequence[Query], attention_mask: Tensor, most: int | None) -> None:
    """Refuse what vLLM refuses: behind its last trained position a model answers anything."""
    for query, length in zip(queries, attention_mask.sum(dim=1).tolist(), strict=True):
        if most is not None and length >= most:
            raise PromptError(
                f"A prompt has {length} tokens and leaves no room for an answer in the "
                f"model's context of {most}; shorten it: {query.prompt[:80]!r}"
            )
