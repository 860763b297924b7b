"""Which pass each decoder call of a patched model needs, and what is reported of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import AdaptVisWarning, PromptError
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import DecoderCall, PromptPlan, run_prompt, run_steered
from adaptvis.hf.library import cache_of
from adaptvis.hf.planning import ForwardCall, Planner
from adaptvis.hf.prompts import PromptState, expand_ends, expand_prompts, remember, remembered

__all__ = ["DecoderCalls"]


class DecoderCalls:
    """The decoder calls of one model: prompts, their chunks, and what follows them.

    prefix_columns: columns that PEFT's prefix tuning puts into the cache of a plain forward call.
    """

    def __init__(self, planner: Planner) -> None:
        self.prefix_columns: Callable[[], int] = int
        self._planner = planner
        self._warned = False

    def run(self, call: ForwardCall, decoder_call: DecoderCall) -> Any:
        cache, length, rows = decoder_call.cache, decoder_call.length, decoder_call.rows
        cached = sequence_length(cache)
        end = cached + length
        generation = call.generation
        state = remembered(cache)
        if state is None and generation is not None:
            state = generation.state
        virtual = call.virtual_columns(state, cached, length, self.prefix_columns())
        ids = call.ids_seen(state, cached, length, rows, virtual)
        told = call.prompt_ends(state, ids, cached, virtual)

        if told is not None:
            ends = told
        elif generation is not None:
            ends = (generation.prompt_length + virtual,) * rows
        elif length > 1 or cached == virtual:
            ends = (end,) * rows
            self._warn_of_other_rows(call, length)
        elif state is not None and state.ends is not None:
            ends = expand_ends(state.ends, rows)
        else:
            ends = (cached,) * rows

        empty = cached == virtual
        if not empty and max(ends) <= cached:
            return self._answer(call, decoder_call, state, ids, ends, told is not None)
        if min(ends) > end:
            self._planner.check_chunk(call, ids)
            remember(cache, PromptState(ids, end, virtual))
            if told is not None and generation is None:
                call.steering.record(_undecided(ids, _GOES_ON))
            return decoder_call.forward(**decoder_call.kwargs)
        if max(ends) > end or (not empty and min(ends) <= cached):
            raise PromptError(
                f"This call holds columns {cached} to {end - 1}, and its prompts end at "
                f"{min(ends) - 1} to {max(ends) - 1}; send prompts that end in the same call, or "
                "all prompts as a whole"
            )

        plan = self._planner.plan(call, ids, cached, ends, state, virtual)
        if generation is not None and state is generation.state and state is not None:
            if state.alpha is None:
                return decoder_call.forward(**decoder_call.kwargs)
            return _run_decided(decoder_call, plan, expand_prompts(state.alpha, rows))

        output, decisions = run_prompt(decoder_call, plan)
        state = PromptState(
            ids, end, virtual, ends, plan.config, plan.columns, decisions.alpha, plan.reasons
        )
        cache = cache_of(output)
        remember(cache, state)
        rows_per_prompt = 1
        if generation is not None:
            generation.state = state
            if decoder_call.keeps_cache:
                generation.cache = cache
            rows_per_prompt = max(rows // len(generation.prompt_ids), 1)
        self._report(call, decisions, rows_per_prompt)
        return output

    def _answer(
        self,
        call: ForwardCall,
        decoder_call: DecoderCall,
        state: PromptState | None,
        ids: Tensor,
        ends: tuple[int, ...],
        told: bool,
    ) -> Any:
        """A call behind the prompts: decode steps, or an answer to be scored."""
        earlier = None if state is None else state.ends
        if told and (earlier is None or expand_ends(earlier, len(ids)) != ends):
            raise PromptError(
                f"The prompts end at columns {min(ends) - 1} to {max(ends) - 1}, which are in the "
                "cache already and were not steered as the last of a prompt; prefill them under "
                "steering with the same prompt_lengths, or send prompts and answers in one call"
            )
        if state is None:
            state = PromptState(ids, ids.shape[1], ends=ends)
            remember(decoder_call.cache, state)
            self._report(call, _undecided(ids, _UNSEEN), 1)
        state.ids, state.seen = ids, ids.shape[1]
        if call.attention.rows != "generated" or state.alpha is None:
            return decoder_call.forward(**decoder_call.kwargs)
        if state.config != call.attention:
            raise PromptError(
                f"The prompts in this cache were steered by {state.config!r} and their answers are "
                f"to be steered by {call.attention!r}; prefill them again"
            )
        return self._decode(decoder_call, state, call.attention, ids.shape[1])

    def _warn_of_other_rows(self, call: ForwardCall, length: int) -> None:
        if length == 1 or call.next_token_only:
            return
        if call.steering.is_scored_elsewhere:
            warnings.warn(_SCORED_ELSEWHERE, AdaptVisWarning, stacklevel=2)
            return
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"All {length} tokens of this forward call count as the prompt, so of its logits only "
            "the last row's (the next token) are those of a steered prompt; to score an answer "
            "that is among them, say where the prompt ends: with handle.scoring(prompt_lengths) or "
            "labels. logits_to_keep=1 says that the next token is all you want",
            AdaptVisWarning,
            stacklevel=2,
        )

    def _decode(
        self, call: DecoderCall, state: PromptState, steering: ScalingVis | AdaptVis, end: int
    ) -> Any:
        rows = call.kwargs["inputs_embeds"].shape[0]
        if state.columns is None or state.alpha is None:
            return call.forward(**call.kwargs)
        columns = expand_prompts(state.columns, rows)
        columns = nn.functional.pad(columns, (0, end - columns.shape[1]))
        steered = torch.ones((rows, call.length), dtype=torch.bool, device=columns.device)
        reasons = tuple(
            reason for reason in state.reasons for _ in range(rows // len(state.reasons))
        )
        plan = PromptPlan(steering, columns, steered, (0,) * rows, reasons)
        return _run_decided(call, plan, expand_prompts(state.alpha, rows))

    @staticmethod
    def _report(call: ForwardCall, decisions: DecisionBatch, rows_per_prompt: int) -> None:
        if call.generation is not None and call.generation.is_draft:
            return
        decisions = replace(decisions, rows_per_prompt=rows_per_prompt)
        call.steering.record(decisions)
        if call.generation is not None:
            call.generation.decisions = decisions
        reasons = decisions.reasons[::rows_per_prompt]
        skipped = sorted({reason for reason in reasons if reason})
        if skipped:
            count = sum(bool(reason) for reason in reasons)
            warnings.warn(
                f"{count} of {len(reasons)} prompts were not steered: {'; '.join(skipped)}",
                AdaptVisWarning,
                stacklevel=2,
            )


_SCORED_ELSEWHERE = (
    "handle.scoring belongs to another thread, task or generator, so this forward call counts as a "
    "prompt without an answer; open handle.scoring where the call is made, or start the thread "
    "with contextvars.copy_context().run"
)
_GOES_ON = "the prompt goes on behind this call"
_UNSEEN = "the prompt came into the cache while it was not steered"


def _undecided(ids: Tensor, reason: str) -> DecisionBatch:
    """Prompts that are left alone for one reason."""
    ones = torch.ones(len(ids))
    return DecisionBatch(ones * torch.nan, ones, (reason,) * len(ids))


def _run_decided(call: DecoderCall, plan: PromptPlan, alpha: Tensor) -> Any:
    """A steered call whose coefficients are known; one pass unless a prompt must stay as it is."""
    if plan.may_keep:
        return run_prompt(call, plan, alpha)[0]
    return run_steered(call.tail(0), plan, alpha)
