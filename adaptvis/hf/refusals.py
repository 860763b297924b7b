"""What a patched model refuses or warns of before anything is steered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptvis.errors import AdaptVisWarning, PromptError, UnsupportedError

__all__ = ["CONTINUOUS_BATCHING", "check_inference", "prompt_ids_of", "warn_passed_by"]

CONTINUOUS_BATCHING = (
    "Continuous batching in transformers (generate_batch, cache_implementation='paged') packs "
    "prompts into one row and takes no images, so it cannot be steered; call generate, serve the "
    "model with adaptvis.vllm, or switch steering off with adaptvis.steer(model, None)"
)


def warn_passed_by() -> None:
    """Say that a call was not steered because it went past the hooks."""
    warnings.warn(
        "The model ran past adaptvis's patch, so this call was not steered; call the model itself "
        "(not model.model), and patch it again if something has replaced its methods since",
        AdaptVisWarning,
        stacklevel=3,
    )


def prompt_ids_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The prompts' ids [B, N] in a call of ``generate``.

    Raises:
        PromptError: there are none, or not one per embedding.
    """
    given = (kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1])
    prompt_ids = next((ids for ids in given if ids is not None), None)
    if not isinstance(prompt_ids, Tensor):
        raise PromptError(
            "Steering finds image tokens in input_ids, and generate was called without them; "
            "pass input_ids (inputs_embeds alone do not say where the image is)"
        )
    embeds = kwargs.get("inputs_embeds")
    if isinstance(embeds, Tensor) and embeds.shape[1] != prompt_ids.shape[1]:
        raise PromptError(
            f"Steering finds image tokens in input_ids, which have {prompt_ids.shape[1]} "
            f"columns for the {embeds.shape[1]} of inputs_embeds; pass one id per embedding, "
            "placeholders for an image's"
        )
    return prompt_ids


def check_inference(model: Any, labels: Tensor | None) -> None:
    """Refuse a forward call that trains.

    Raises:
        UnsupportedError: it does.
    """
    gradients = torch.is_grad_enabled()
    if labels is not None and (model.training or gradients):
        raise UnsupportedError(
            "Steering acts at inference and labels ask for a training loss; call "
            "adaptvis.unpatch(model) before training, or evaluate under torch.no_grad() with "
            "the model in eval mode"
        )
    if model.training and gradients and any(p.requires_grad for p in model.parameters()):
        raise UnsupportedError(
            "Steering acts at inference and this call would train the model; call "
            "adaptvis.unpatch(model) before training, model.eval() otherwise"
        )
