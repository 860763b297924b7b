"""From one forward call's tokens to what is steered in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from adaptvis.config import AdaptVis, NormRescale, ScalingVis
from adaptvis.errors import PromptError, UnsupportedError
from adaptvis.hf.amplification import Amplification
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import PromptPlan
from adaptvis.hf.families import Family
from adaptvis.hf.prompts import Generation, PromptState, join_ids
from adaptvis.hf.selection import lengths_per_prompt, select_image_tokens
from adaptvis.steering.spans import steered_rows

__all__ = ["ForwardCall", "Planner", "Steering"]

_NO_IMAGE = "the prompt has no image tokens"
_NOT_SELECTED = "the selected images or regions are not in the prompt"
_NO_ROW = "the prompt ends in padding (pad on the left) or no text follows its image"


class Steering(Protocol):
    """What a handle offers to the hooks."""

    attention: ScalingVis | AdaptVis | None
    norms: NormRescale | None
    amplification: Amplification | None
    processor: Any

    def record(self, decisions: DecisionBatch | None) -> None:
        """Keep the decisions of the latest prefill; None forgets them."""


@dataclass(frozen=True)
class ForwardCall:
    """The model's forward call around a decoder call.

    input_ids: int64 [B, R]. padding_mask: [B, N], 0 for padding.
    feature_lengths: tokens of each image of the batch, as the vision encoder returned them.
    """

    steering: Steering
    attention: ScalingVis | AdaptVis
    input_ids: Tensor | None
    padding_mask: Tensor | None
    generation: Generation | None
    feature_lengths: Sequence[int] | None

    def ids_seen(self, state: PromptState | None, cached: int, length: int) -> Tensor:
        """Tokens seen at the end of a decoder call of ``length`` rows: [B, cached + length].

        Raises:
            PromptError: the call has no ids, or not one per position.
        """
        new = self.input_ids
        if new is None or new.shape[1] != length:
            raise PromptError(
                "Steering finds image tokens in input_ids, and this forward call "
                + ("has none" if new is None else f"has {new.shape[1]} for {length} positions")
                + "; pass input_ids with one placeholder per image token"
            )
        known = None if state is None else state.ids
        generation = self.generation
        if generation is not None and generation.prompt_ids.shape[1] == generation.prompt_length:
            known = generation.prompt_ids
        if known is None and cached > 0 and (length > 1 or self.attention.rows == "generated"):
            raise PromptError(
                f"The cache already holds {cached} tokens that adaptvis has not seen, so it cannot "
                "tell where their images are; call generate with the input_ids of the whole "
                "prompt, or prefill the cache under steering"
            )
        return join_ids(known, cached, new)


@dataclass(frozen=True)
class Planner:
    """Plans prompts of one model."""

    family: Family
    config: Any
    image_token_id: int

    def plan(self, call: ForwardCall, ids: Tensor, cached: int, prompt_length: int) -> PromptPlan:
        """What to steer in a call whose rows start at column ``cached`` of ``ids`` [B, N]."""
        image_tokens = ids == self.image_token_id
        image_tokens[:, prompt_length:] = False
        columns = select_image_tokens(
            call.attention,
            ids,
            image_tokens,
            family=self.family,
            config=self.config,
            processor=call.steering.processor,
            feature_lengths=self._feature_lengths(call, len(ids)),
        )
        padding = None
        mask = call.padding_mask
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= ids.shape[1]:
            padding = mask[:, : ids.shape[1]] == 0
        rows = steered_rows(call.attention.rows, image_tokens, prompt_length, padding)[:, cached:]
        reasons = tuple(
            _NO_IMAGE if not image else _NOT_SELECTED if not column else "" if row else _NO_ROW
            for image, column, row in zip(
                image_tokens.any(dim=1).tolist(),
                columns.any(dim=1).tolist(),
                rows.any(dim=1).tolist(),
                strict=True,
            )
        )
        return PromptPlan(call.attention, columns, rows, prompt_length - 1 - cached, reasons)

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
