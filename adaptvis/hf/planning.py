"""From one forward call's tokens to what is steered in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adaptvis.config import AdaptVis, NormRescale, ScalingVis
from adaptvis.errors import PromptError, UnsupportedError
from adaptvis.hf.amplification import Amplification
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import PromptPlan
from adaptvis.hf.families import Family
from adaptvis.hf.prompt_ends import ends_from_labels, ends_from_lengths, length_of_each
from adaptvis.hf.prompts import Generation, PromptState, expand_ends, expand_prompts, join_ids
from adaptvis.hf.selection import lengths_per_prompt, select_image_tokens
from adaptvis.steering.spans import steered_rows

__all__ = ["ForwardCall", "Planner", "Steering"]

_NO_IMAGE = "the prompt has no image tokens"
_NOT_SELECTED = "the selected images or regions are not in the prompt"
_NO_ROW = (
    "the prompt ends in padding (pad on the left, or give prompt_lengths) or no text follows its "
    "image"
)


class Steering(Protocol):
    """What a handle offers to the hooks."""

    attention: ScalingVis | AdaptVis | None
    norms: NormRescale | None
    amplification: Amplification | None
    processor: Any

    @property
    def prompt_lengths(self) -> int | tuple[int, ...] | None:
        """Tokens of each prompt in calls that hold answers too; see ``SteeringHandle.scoring``."""

    @property
    def is_scored_elsewhere(self) -> bool:
        """Whether a ``scoring`` block is open that this call is not in."""

    def record(self, decisions: DecisionBatch | None) -> None:
        """Keep the decisions of the latest prefill; None forgets them."""


@dataclass(frozen=True)
class ForwardCall:
    """The model's forward call around a decoder call.

    input_ids: int64 [B, R]; None for a call with embeddings. padding_mask: [B, N], 0 for padding.
    labels: int64 [B, R], or None.
    keeps_cache: the caller passed a cache, so a prompt may go on in a later call.
    next_token_only: no more than the last row's logits were asked for.
    feature_lengths: tokens of each image of the batch, as the vision encoder returned them.
    """

    steering: Steering
    attention: ScalingVis | AdaptVis
    input_ids: Tensor | None
    padding_mask: Tensor | None
    labels: Tensor | None
    keeps_cache: bool
    next_token_only: bool
    generation: Generation | None
    feature_lengths: Sequence[int] | None

    def virtual_columns(
        self, state: PromptState | None, cached: int, length: int, prefix: int
    ) -> int:
        """Columns in front of the prompt that no token stands for: a soft prompt of PEFT's.

        Args:
            prefix: columns that PEFT puts into the cache of a plain forward call.
        """
        generation = self.generation
        if state is not None:
            return state.virtual
        if generation is None:
            return prefix if cached == prefix else 0
        if self.input_ids is None:
            return max(cached + length - generation.prompt_length, 0)
        return max(cached - generation.cached, 0)

    def ids_seen(
        self, state: PromptState | None, cached: int, length: int, rows: int, virtual: int
    ) -> Tensor:
        """Tokens seen at the end of a decoder call [rows, length]: [rows, cached + length].

        Raises:
            PromptError: the call has no ids, or not one per position.
        """
        new = self.input_ids
        whole = None if self.generation is None else self.generation.whole_ids
        if new is None and whole is not None:
            # Embeddings that the caller, or PEFT, made of the same tokens.
            return join_ids(whole, cached + length, whole.new_empty((rows, 0)), virtual)
        if new is None or new.shape[1] != length:
            raise PromptError(
                "Steering finds image tokens in input_ids, and this forward call "
                + (
                    "has embeddings alone, as PEFT's prompt tuning makes them"
                    if new is None
                    else f"has {new.shape[1]} for {length} positions"
                )
                + "; pass input_ids with one placeholder per image token, or call generate with "
                "them"
            )
        if whole is not None:
            return join_ids(whole, cached, new, virtual)
        known = None if state is None or cached > state.seen else state.ids
        single = length == 1 and self.attention.rows != "generated" and self.ends_given is None
        if known is None and cached > virtual and not single:
            raise PromptError(
                f"The cache holds {cached} columns, and some stand for tokens that adaptvis has "
                "not seen (added while the model was not steered) or for none (a soft prefix), so "
                "it cannot tell where their images are; call generate with the input_ids of the "
                "whole prompt, prefill the cache under steering, or patch PEFT's model and not the "
                "one inside"
            )
        return join_ids(known, cached, new)

    @property
    def ends_given(self) -> int | tuple[int, ...] | Tensor | None:
        """What tells where prompts end: their lengths, or labels."""
        lengths = self.steering.prompt_lengths
        return self.labels if lengths is None else lengths

    def prompt_ends(
        self, state: PromptState | None, ids: Tensor, cached: int, virtual: int
    ) -> tuple[int, ...] | None:
        """The column behind each prompt, where the caller has told.

        Raises:
            PromptError: what was told does not fit the call.
        """
        rows, columns = ids.shape
        if self.labels is not None and self.steering.prompt_lengths is None:
            if self.labels.shape != (rows, columns - cached):
                raise PromptError(
                    f"labels are of shape {tuple(self.labels.shape)}, but this call has "
                    f"{rows} rows of {columns - cached} tokens; give one label per token"
                )
            ends = ends_from_labels(self.labels, cached)
            if state is None or state.ends is None:
                return ends
            # Labels that begin with a call continue what the cache holds.
            earlier = expand_ends(state.ends, rows)
            return tuple(
                min(before, end) if end == cached else end
                for before, end in zip(earlier, ends, strict=True)
            )
        lengths = self.steering.prompt_lengths
        if lengths is None:
            return None
        padding = self.padding(ids, virtual)
        if padding is None and self.padding_mask is not None:
            raise PromptError(
                f"prompt_lengths count tokens without padding, and an attention_mask of shape "
                f"{tuple(getattr(self.padding_mask, 'shape', ()))} does not say which of "
                f"{columns} columns are padding; pass one of shape {(rows, columns)}"
            )
        tokens = torch.ones_like(ids, dtype=torch.bool) if padding is None else ~padding
        tokens[:, :virtual] = False
        generation = self.generation
        if generation is None:
            more = self.keeps_cache and not virtual
            return ends_from_lengths(length_of_each(lengths, rows), tokens, more_follow=more)
        more = columns < generation.prompt_length + virtual
        each = expand_ends(length_of_each(lengths, len(generation.prompt_ids)), rows)
        return ends_from_lengths(each, tokens, more_follow=more)

    def padding(self, ids: Tensor, virtual: int) -> Tensor | None:
        """Bool [B, N], True for padding; None where no mask tells."""
        rows, columns = ids.shape
        mask = self.padding_mask
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= columns:
            return mask[:, :columns] == 0
        mask = None if self.generation is None else self.generation.padding_mask
        if mask is None:
            return None
        # generate makes masks of other shapes for some caches.
        mask = nn.functional.pad(mask, (virtual, 0), value=1)[:, :columns]
        mask = nn.functional.pad(mask, (0, columns - mask.shape[1]), value=1)
        return expand_prompts(mask, rows).to(ids.device) == 0


@dataclass(frozen=True)
class Planner:
    """Plans prompts of one model.

    image_token_id: the placeholder of images. other_placeholders: those of videos and sounds.
    """

    family: Family
    config: Any
    image_token_id: int
    other_placeholders: tuple[int, ...] = ()

    def plan(
        self,
        call: ForwardCall,
        ids: Tensor,
        cached: int,
        ends: tuple[int, ...],
        state: PromptState | None = None,
        virtual: int = 0,
    ) -> PromptPlan:
        """What to steer in a call whose rows start at column ``cached`` of ``ids`` [B, N].

        Args:
            ends: the column behind each prompt.
            state: what is known of the cached columns.

        Raises:
            UnsupportedError: text rows to be steered are in the cache already.
        """
        columns_of_prompt = torch.arange(ids.shape[1], device=ids.device) < torch.tensor(
            ends, device=ids.device
        ).reshape(-1, 1)
        image_tokens = (ids == self.image_token_id) & columns_of_prompt
        columns = select_image_tokens(
            call.attention,
            ids,
            image_tokens,
            family=self.family,
            config=self.config,
            processor=call.steering.processor,
            feature_lengths=self._feature_lengths(call, len(ids)),
        )
        others = ids.new_tensor(self.other_placeholders)
        rows = steered_rows(
            call.attention.rows,
            image_tokens,
            ends,
            call.padding(ids, virtual),
            torch.isin(ids, others),
        )
        if call.attention.rows == "text_after_image" and cached:
            self._check_cached(rows[:, :cached], call.attention, state)
        rows = rows[:, cached:]
        reasons = tuple(
            _NO_IMAGE if not image else _NOT_SELECTED if not column else "" if row else _NO_ROW
            for image, column, row in zip(
                image_tokens.any(dim=1).tolist(),
                columns.any(dim=1).tolist(),
                rows.any(dim=1).tolist(),
                strict=True,
            )
        )
        last_rows = tuple(max(end - 1 - cached, -1) for end in ends)
        return PromptPlan(call.attention, columns, rows, last_rows, reasons)

    @staticmethod
    def _check_cached(
        rows: Tensor, attention: ScalingVis | AdaptVis, state: PromptState | None
    ) -> None:
        """Refuse cached text rows unless an earlier turn has steered them in the same way."""
        same = state is not None and state.config == attention
        steered = state.seen if same and state is not None else 0
        missed = int(rows[:, steered:].sum())
        if missed:
            raise UnsupportedError(
                f"rows='text_after_image' steers every text row behind the image, but {missed} of "
                "them are in the cache already, unsteered or steered by another configuration; "
                "send the prompt from its first image on in one forward call, or use "
                "rows='last_prompt_token'"
            )

    def check_chunk(self, call: ForwardCall, ids: Tensor) -> None:
        """Refuse a part of a prompt that would have to wait for a decision at the prompt's end.

        Raises:
            UnsupportedError: text rows after an image are steered and the prompt comes in chunks.
        """
        if call.attention.rows == "text_after_image" and bool((ids == self.image_token_id).any()):
            raise UnsupportedError(
                "rows='text_after_image' needs the prompt from its first image on in one forward "
                "call; turn chunked prefill off or use rows='last_prompt_token'"
            )

    def _feature_lengths(self, call: ForwardCall, rows: int) -> Sequence[int] | None:
        if call.feature_lengths is None or call.generation is None:
            return call.feature_lengths
        # The encoder runs before the batch is repeated for beams.
        prompt_ids = call.generation.prompt_ids
        tokens = (prompt_ids == self.image_token_id).sum(dim=1).tolist()
        beams = rows // len(prompt_ids)
        dealt = lengths_per_prompt(call.feature_lengths, tokens)
        return [length for own in dealt for length in own * beams]
