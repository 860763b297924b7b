"""What a patched model remembers of the prompts that it is answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import PromptError
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decisions import DecisionBatch

__all__ = [
    "Generation",
    "PromptState",
    "expand_ends",
    "expand_prompts",
    "join_ids",
    "remember",
    "remembered",
]

_UNKNOWN = -1
# On the cache itself, so that it goes with copies of it.
_ATTRIBUTE = "_adaptvis_prompt"


@dataclass
class PromptState:
    """Tokens and decisions behind one cache, kept for decode steps and later turns.

    ids: int64 [B, N], the tokens seen so far, -1 where unknown.
    seen: columns that passed through the patched model; others were added while it was not steered.
    virtual: columns at the front that no token stands for, as PEFT's prefix tuning puts them there.
    ends: the column behind each prompt, once its last token has been seen.
    config: what the prompt was steered by.
    columns: bool [B, N], the steered image tokens. alpha: float32 [B].
    reasons: for each row why it is not steered; empty where it is.
    """

    ids: Tensor
    seen: int
    virtual: int = 0
    ends: tuple[int, ...] | None = None
    config: ScalingVis | AdaptVis | None = None
    columns: Tensor | None = None
    alpha: Tensor | None = None
    reasons: tuple[str, ...] = ()


def remembered(cache: Cache | None) -> PromptState | None:
    """What is known of the prompts in a cache; None for an empty one."""
    return getattr(cache, _ATTRIBUTE, None) if sequence_length(cache) else None


def remember(cache: Cache | None, state: PromptState) -> None:
    """Keep what is known of the prompts in a cache."""
    if cache is not None:
        setattr(cache, _ATTRIBUTE, state)


@dataclass
class Generation:
    """One call of ``generate``.

    steering: the handle in force when it began.
    prompt_ids: int64 [B, prompt_length] as the caller gave them, or only the new part of a prompt
        whose beginning is in the cache.
    padding_mask: [B, prompt_length] as the caller gave it, or None.
    cached: tokens in the caller's cache when it began.
    finished: the prompt has been prefilled into ``cache``; only decode steps follow.
    drafts: the call asks an assistant for candidates, which may be the model itself.
    is_draft: the call is that assistant's: what it decides is nobody's answer.
    decisions: what was decided for its prompts, once they have been prefilled.
    """

    steering: Any
    prompt_ids: Tensor
    prompt_length: int
    padding_mask: Tensor | None = None
    cached: int = 0
    state: PromptState | None = None
    cache: Cache | None = None
    drafts: bool = False
    is_draft: bool = False
    decisions: DecisionBatch | None = None

    @property
    def finished(self) -> bool:
        return self.cache is not None

    @property
    def whole_ids(self) -> Tensor | None:
        """The prompts' tokens; None where their beginning is only in the cache."""
        return self.prompt_ids if self.prompt_ids.shape[1] == self.prompt_length else None

    def left_by(self, cache: Cache | None) -> bool:
        """Whether a call with this cache asks something else, as a callback between steps may."""
        return self.finished and cache is not self.cache and sequence_length(cache) == 0

    def close(self) -> None:
        """Decode steps pass by without a look; remember that they were of this generation."""
        if self.state is not None and self.cache is not None:
            self.state.seen = sequence_length(self.cache)


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


def expand_ends(ends: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The same for the columns behind prompts."""
    return tuple(expand_prompts(torch.tensor(ends), rows).tolist())


def join_ids(known: Tensor | None, cached: int, new: Tensor, virtual: int = 0) -> Tensor:
    """Tokens seen at the end of a call: [B, cached + R]; unknown ones in between are -1.

    Args:
        virtual: columns in front of the known tokens that no token stands for.
    """
    if cached == 0:
        return new
    if known is None:
        known = new.new_empty((len(new), 0))
    known = torch.nn.functional.pad(known, (virtual, 0), value=_UNKNOWN)
    known = expand_prompts(known, len(new)).to(new.device)[:, :cached]
    gap = new.new_full((len(new), cached - known.shape[1]), _UNKNOWN)
    return torch.cat([known, gap, new], dim=1)
