"""What a patched model remembers of the prompts that it is answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptvis.errors import PromptError
from adaptvis.hf.decisions import DecisionBatch

__all__ = ["Generation", "PromptState", "expand_prompts", "join_ids"]

_UNKNOWN = -1


@dataclass
class PromptState:
    """Tokens and decisions behind one cache, kept for decode steps and later turns.

    ids: int64 [B, N], the tokens seen so far, -1 where unknown.
    prompt_length: columns of the prompt, once its last token has been seen.
    columns: bool [B, prompt_length], the steered image tokens. alpha: float32 [B].
    reasons: for each row why it is not steered; empty where it is.
    """

    ids: Tensor
    prompt_length: int | None = None
    columns: Tensor | None = None
    alpha: Tensor | None = None
    reasons: tuple[str, ...] = ()


@dataclass
class Generation:
    """One call of ``generate``.

    steering: the handle in force when it began.

    prompt_ids: int64 [B, prompt_length] as the caller gave them, or only the new part of a prompt
        whose beginning is in the cache.
    finished: the prompt has been prefilled into a cache; only decode steps follow.
    drafts: the call asks an assistant for candidates, which may be the model itself.
    is_draft: the call is that assistant's: what it decides is nobody's answer.
    decisions: what was decided for its prompts, once they have been prefilled.
    """

    steering: Any
    prompt_ids: Tensor
    prompt_length: int
    state: PromptState | None = None
    finished: bool = False
    drafts: bool = False
    is_draft: bool = False
    decisions: DecisionBatch | None = None


def expand_prompts(tensor: Tensor, rows: int) -> Tensor:
    """Repeat [B, ...] for the beams or returned sequences of each prompt, to [rows, ...].

    Raises:
        PromptError: ``rows`` is no multiple of B.
    """
    if len(tensor) == rows:
        return tensor
    if len(tensor) == 0 or rows % len(tensor):
        raise PromptError(
            f"This forward call has {rows} rows, but its prompt had {len(tensor)}; steering "
            "follows a batch only if each prompt keeps its number of beams"
        )
    return tensor.repeat_interleave(rows // len(tensor), dim=0)


def join_ids(known: Tensor | None, cached: int, new: Tensor) -> Tensor:
    """Tokens seen at the end of a call: [B, cached + R]; unknown ones in between are -1."""
    if cached == 0:
        return new
    if known is None:
        known = new.new_empty((len(new), 0))
    known = expand_prompts(known, len(new)).to(new.device)[:, :cached]
    gap = new.new_full((len(new), cached - known.shape[1]), _UNKNOWN)
    return torch.cat([known, gap, new], dim=1)
