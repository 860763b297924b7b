"""The decoder's forward under steering: the ordinary pass, then the steered rows once more.

Keys and values before the first steered row do not depend on alpha in any layer, because no earlier
row attends to a steered one. So the prompt is prefilled as ever, and only the rows from the first
steered one on are run again, over the cache (re-anchoring; ``last_prompt_token`` re-runs a single
token). Where earlier rows do see a steered one (prefix attention), or where there is no cache to
build on, every row of the call is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import UnsupportedError
from adaptvis.hf.attention import SteeredPass, dense_mask, steered_pass
from adaptvis.hf.cache import CacheTail, can_roll_back, clear, recording_past, roll_back
from adaptvis.hf.compiled import run_eagerly
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.steering.backend import decide
from adaptvis.steering.policy import may_select_one

__all__ = ["DecoderCall", "PromptPlan", "run_prompt", "run_steered"]


@dataclass(frozen=True)
class PromptPlan:
    """What is to be steered in one decoder call that ends a prompt.

    N tokens have been seen at its end, R of them are rows of this call.

    columns: bool [B, N], the steered image tokens.
    rows: bool [B, R], the steered rows.
    last_prompt_rows: index within the call of each prompt's last token; -1 where it has none.
    reasons: for each prompt why it is not steered; empty where it is.
    """

    config: ScalingVis | AdaptVis
    columns: Tensor
    rows: Tensor
    last_prompt_rows: tuple[int, ...]
    reasons: tuple[str, ...]

    @property
    def first_row(self) -> int:
        """The first row that is steered in any prompt."""
        return int(torch.where(self.rows.any(dim=0))[0][0])

    @property
    def may_keep(self) -> bool:
        """Whether a prompt may have to come out untouched, to the bit."""
        return may_select_one(self.config) or any(self.reasons)

    @property
    def prompts(self) -> Tensor:
        """Bool [B]: the prompts that are steered."""
        return torch.tensor([not reason for reason in self.reasons], device=self.columns.device)


@dataclass(frozen=True)
class DecoderCall:
    """One call of the text decoder.

    forward: the decoder's own forward. kwargs: its arguments. head: hidden states -> logits.
    configs: the configurations that name the attention implementation of the decoder's layers.
    cache_name: what the decoder calls its key-value cache.
    """

    forward: Callable[..., Any]
    kwargs: dict[str, Any]
    head: nn.Module
    configs: Sequence[Any]
    cache_name: str

    @property
    def cache(self) -> Cache | None:
        return self.kwargs.get(self.cache_name)

    @property
    def length(self) -> int:
        return int(self.kwargs["inputs_embeds"].shape[1])

    @property
    def rows(self) -> int:
        """Prompts, each with its beams."""
        return int(self.kwargs["inputs_embeds"].shape[0])

    @property
    def keeps_cache(self) -> bool:
        """Whether later calls go on from the cache of this one."""
        use_cache = self.kwargs.get("use_cache")
        if use_cache is None:
            use_cache = getattr(self.configs[0], "use_cache", True)
        return bool(use_cache)

    def with_cache(self) -> DecoderCall:
        """The same call with the cache that the decoder would otherwise create for itself."""
        if self.cache is not None or not self.keeps_cache:
            return self
        cache = DynamicCache(config=self.configs[0])
        return replace(self, kwargs={**self.kwargs, self.cache_name: cache})

    def tail(self, start: int) -> DecoderCall:
        """The same call for the rows from ``start`` on."""
        kwargs = dict(self.kwargs)
        length = self.length
        kwargs["attention_mask"] = dense_mask(kwargs.get("attention_mask"))
        if start > 0:
            kwargs["inputs_embeds"] = kwargs["inputs_embeds"][:, start:]
            for name in ("position_ids", "cache_position"):
                positions = kwargs.get(name)
                if isinstance(positions, Tensor) and positions.shape[-1] == length:
                    kwargs[name] = positions[..., start:]
            visual = kwargs.get("visual_pos_masks")
            if visual is not None:
                kwargs["visual_pos_masks"] = visual[:, start:]
                kept = torch.where(visual)[1] >= start
                kwargs["deepstack_visual_embeds"] = [
                    embeds[kept] for embeds in kwargs["deepstack_visual_embeds"]
                ]
        return replace(self, kwargs=kwargs)


def run_prompt(
    call: DecoderCall, plan: PromptPlan, alpha: Tensor | None = None
) -> tuple[Any, DecisionBatch]:
    """Run a decoder call that ends a prompt; steer the prompts that the plan names.

    Args:
        alpha: float32 [B], coefficients decided earlier; None decides them here.

    Returns:
        The decoder's output with the steered rows in place, and the decisions.
    """
    call = call.with_cache()
    applies = plan.prompts
    steers = not (isinstance(plan.config, ScalingVis) and plan.config.alpha == 1)
    if not (steers and bool(applies.any())):
        output = call.forward(**call.kwargs)
        return output, _decide(call, plan, output, applies, alpha)

    start = _restart_row(call, plan)
    # The tail is prepared first: forward may change its keyword dictionary's values.
    tail = call.tail(start)
    before = 0 if call.cache is None else int(call.cache.get_seq_length())
    with recording_past(call.cache):
        output = call.forward(**call.kwargs)
        _check_filled(call, before)
        decisions = _decide(call, plan, output, applies, alpha)
        keep = ~applies | (decisions.alpha == 1) if plan.may_keep else None

        saved = None
        if call.cache is not None:
            count = call.length - start
            if keep is not None:
                saved = CacheTail(call.cache, count)
            if can_roll_back(call.cache, before + call.length, count):
                roll_back(call.cache, count)
            else:
                clear(call.cache)
        steered = run_steered(tail, plan, decisions.alpha, start)
        if saved is not None:
            saved.restore(call.cache, keep)
    _merge_rows(output, steered, start, keep)
    return output, decisions


def run_steered(call: DecoderCall, plan: PromptPlan, alpha: Tensor, start: int = 0) -> Any:
    """Run a decoder call, whose first row is the plan's row ``start``, under steered attention."""
    rows = plan.rows[:, start:]
    row_alpha = torch.where(rows, alpha[:, None].to(rows.device), 1.0)
    steering = SteeredPass(
        columns=plan.columns,
        row_alpha=row_alpha,
        first_row=plan.first_row - start,
        layers=None if plan.config.layers is None else frozenset(plan.config.layers),
        heads=plan.config.heads,
        weights=bool(call.kwargs.get("output_attentions")),
    )
    with steered_pass(call.configs, steering):
        # One short pass: compiling it would cost more than it runs.
        return run_eagerly(call.forward, **call.kwargs)


def _check_filled(call: DecoderCall, before: int) -> None:
    expected = before + call.length
    found = expected if call.cache is None else int(call.cache.get_seq_length())
    if found != expected:
        raise UnsupportedError(
            f"The decoder left {found} tokens in its cache where {expected} were expected, so "
            "steering cannot go on from there; call model.eval() if gradient checkpointing is on, "
            "pass use_cache=False, or take off what compresses the cache"
        )


def _decide(
    call: DecoderCall, plan: PromptPlan, output: Any, applies: Tensor, alpha: Tensor | None
) -> DecisionBatch:
    if alpha is not None:
        return DecisionBatch(torch.full_like(alpha, torch.nan), alpha, plan.reasons)
    with torch.no_grad():
        hidden = _at_rows(output.last_hidden_state, plan.last_prompt_rows)
        confidence, alpha = decide(plan.config, call.head(hidden), applies)
    return DecisionBatch(confidence, alpha, plan.reasons)


def _at_rows(hidden: Tensor, rows: tuple[int, ...]) -> Tensor:
    """One row of each prompt: [B, R, D] -> [B, D]; NaN where there is none."""
    if min(rows) == max(rows) >= 0:
        return hidden[:, rows[0]]
    index = torch.tensor(rows, device=hidden.device)
    chosen = hidden[torch.arange(len(index), device=hidden.device), index.clamp(min=0)]
    return chosen.masked_fill((index < 0)[:, None], torch.nan)


def _restart_row(call: DecoderCall, plan: PromptPlan) -> int:
    """The first row to run again; 0 where the rows before cannot be kept."""
    if call.cache is None:
        return 0
    start = plan.first_row
    cached = int(call.cache.get_seq_length())
    count = call.length - start
    if _earlier_rows_see(call.kwargs.get("attention_mask"), start, cached + call.length, count):
        start, count = 0, call.length
    if can_roll_back(call.cache, cached + call.length, count):
        return start
    if cached > 0:
        raise UnsupportedError(
            f"Steering cannot take {count} tokens back out of a {type(call.cache).__name__} of "
            f"{', '.join(sorted({type(layer).__name__ for layer in call.cache.layers}))} that "
            f"already holds {cached}; send the whole prompt at once, and where decode steps are "
            "steered, prompts that all are"
        )
    return 0


def _earlier_rows_see(mask: Any, start: int, seen: int, count: int) -> bool:
    """Whether a row before ``start`` attends to one of the last ``count`` of ``seen`` tokens."""
    if isinstance(mask, dict):
        return any(_earlier_rows_see(value, start, seen, count) for value in mask.values())
    mask = dense_mask(mask)
    if start == 0 or mask is None or mask.dim() != 4:
        return False
    # Static caches show unused columns behind the prompt; sliding windows have dropped old ones.
    end = min(seen, mask.shape[3])
    later = mask[:, :, :start, end - count : end]
    visible = later if later.dtype == torch.bool else later > torch.finfo(later.dtype).min / 2
    return bool(visible.any())


def _merge_rows(output: Any, steered: Any, start: int, keep: Tensor | None) -> None:
    """Put the steered rows into the ordinary pass's output, except for prompts to ``keep``."""
    output.last_hidden_state = _merged(
        output.last_hidden_state, steered.last_hidden_state, start, keep
    )
    if getattr(output, "hidden_states", None) is not None:
        output.hidden_states = tuple(
            old if new is None or old is None else _merged(old, new, start, keep)
            for old, new in zip(output.hidden_states, steered.hidden_states, strict=True)
        )
    # Empty where the model's own attention gives no weights, as scaled dot-product attention does.
    if getattr(output, "attentions", None):
        output.attentions = tuple(
            old if old is None or new is None else _merged_attention(old, new, start, keep)
            for old, new in zip(output.attentions, steered.attentions, strict=True)
        )


def _merged(old: Tensor, new: Tensor, start: int, keep: Tensor | None, dim: int = 1) -> Tensor:
    head, tail = old.split([start, old.shape[dim] - start], dim=dim)
    if keep is not None:
        shape = [-1] + [1] * (old.dim() - 1)
        new = torch.where(keep.to(old.device).view(shape), tail, new)
    if start > 0 and not (old.requires_grad or new.requires_grad):
        tail.copy_(new)
        return old
    return torch.cat([head, new], dim=dim) if start > 0 else new


def _merged_attention(old: Tensor, new: Tensor, start: int, keep: Tensor | None) -> Tensor:
    # Sliding-window layers show fewer keys in the second pass: they are the last ones.
    new = nn.functional.pad(new.to(old.dtype), (old.shape[-1] - new.shape[-1], 0))
    return _merged(old, new, start, keep, dim=2)
