"""The handles on a model, one for each ``patch`` or ``steer``, and which of them are in force."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from adaptvis.config import (
    AdaptVis,
    Amplify,
    NormRescale,
    ScalingVis,
    SteeringConfig,
)
from adaptvis.errors import AdaptVisWarning, ConfigError, UnsupportedError
from adaptvis.hf.blocks import Block, frames_of_caller
from adaptvis.hf.decisions import Decision, DecisionBatch, Latest
from adaptvis.hf.patched_model import PatchedModel
from adaptvis.hf.prompt_ends import PromptLengths, checked_lengths

__all__ = ["LOCK", "Configs", "Stack", "SteeringHandle", "split_configs"]

Configs = SteeringConfig | Sequence[SteeringConfig] | None

LOCK = threading.RLock()
_ATTRIBUTE = "_adaptvis_stack"


class SteeringHandle:
    """One ``patch`` of one model; ``remove`` undoes it.

    attention: the ScalingVis or AdaptVis in force, norms: the NormRescale, amplification: the
        Amplify with its directions; or None.
    is_off: configured with None: switches off the handles below it (``is_paused`` only skips this
        one). block: the ``with`` block that it steers; None steers every call of the model.
    """

    def __init__(
        self,
        stack: Stack,
        configs: Configs,
        processor: Any,
        prompt_lengths: PromptLengths | None = None,
        block: Block | None = None,
    ) -> None:
        self.attention, self.norms, amplify = split_configs(configs)
        self.amplification = None if amplify is None else stack.patched.amplification_of(amplify)
        self.processor = processor
        self.is_off = self.attention is None and self.norms is None and amplify is None
        self.block = block
        self._stack = stack
        self._pauses: list[Block] = []
        self._lengths = checked_lengths(prompt_lengths)
        self._scorings: list[tuple[Block, int | tuple[int, ...] | None]] = []
        self._latest = Latest()

    @property
    def last(self) -> list[Decision]:
        """What was decided for each prompt of the latest prefill; empty before the first.

        A thread or task sees its own latest prefill, or anybody's if it has not run one. What it
        hands to ``asyncio.to_thread`` is its own; where tasks do that with one ``patch`` between
        them, each asks inside the thread, or opens a :func:`steer` of its own.
        """
        decisions = self._latest.get()
        return [] if decisions is None else decisions.to_list()

    def record(self, decisions: DecisionBatch | None) -> None:
        """Keep the decisions of the latest prefill; None forgets them."""
        self._latest.keep(decisions)

    def remove(self) -> None:
        """Undo this patch; the model is as before. Does nothing the second time."""
        self._stack.remove(self)

    @property
    def prompt_lengths(self) -> int | tuple[int, ...] | None:
        """Tokens of each prompt in calls that hold answers too; None takes a call as the prompt."""
        scorings = self._scorings[::-1]
        frames = frames_of_caller() if scorings else {}
        return next((n for block, n in scorings if block.holds(frames)), self._lengths)

    @property
    def is_scored_elsewhere(self) -> bool:
        """Whether only other code than the running one is in a ``scoring`` block."""
        blocks = [block for block, _ in self._scorings]
        return bool(blocks) and not _is_inside_any(blocks)

    @contextmanager
    def scoring(self, prompt_lengths: PromptLengths) -> Iterator[None]:
        """Run a block whose calls hold prompts and, behind them, answers to be scored.

        The answers' logits are those that decoding them token by token behind the steered prompts
        would give. Where a call has ``labels``, they tell the same: the prompt ends before the
        first that is not -100. What is in the block, as for steer.

        Args:
            prompt_lengths: tokens of each prompt, counted with its image tokens and without
                padding, whichever side it is on: one number per row, or one for all rows.

        Raises:
            PromptError: they are no positive whole numbers; a call inside the block raises it where
                they do not fit its rows.
        """
        lengths = checked_lengths(prompt_lengths)
        if self not in self._stack.handles:
            raise UnsupportedError(
                "This handle's patch was removed, or its block left, so nothing would be steered; "
                "score inside the block, or patch again"
            )
        scoring = (Block(__name__), lengths)
        self._scorings.append(scoring)
        try:
            yield
        finally:
            self._scorings.remove(scoring)
            scoring[0].close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run a block without this handle's steering; what is in the block, as for steer."""
        block = Block(__name__)
        self._pauses.append(block)
        try:
            yield
        finally:
            self._pauses.remove(block)
            block.close()

    @property
    def is_paused(self) -> bool:
        """Whether the running code is in a ``paused`` block."""
        return _is_inside_any(list(self._pauses))

    def __repr__(self) -> str:
        amplify = None if self.amplification is None else self.amplification.config
        configs = [c for c in (self.attention, self.norms, amplify) if c is not None]
        return f"SteeringHandle({', '.join(map(repr, configs)) or 'off'})"


class Stack:
    """The handles on one model, the latest last, and the hooks that serve them."""

    def __init__(self, model: nn.Module) -> None:
        self.handles: list[SteeringHandle] = []
        self._model = weakref.ref(model)
        self.patched: PatchedModel = PatchedModel(
            model,
            partial(self.in_force, "attention"),
            partial(self.in_force, "norms"),
            partial(self.in_force, "amplification"),
        )

    @staticmethod
    def of(model: nn.Module) -> Stack | None:
        """The handles on ``model``; None on an unpatched one."""
        stack: Stack | None = model.__dict__.get(_ATTRIBUTE)
        return stack

    def attach(self, model: nn.Module) -> None:
        """Let :meth:`of` find these handles."""
        model.__dict__[_ATTRIBUTE] = self

    def in_force(self, kind: str, warn: bool = True) -> SteeringHandle | None:
        """The handle whose ``kind`` steers the running code.

        kind: attention, norms or amplification. warn: say so where only others are steered.
        """
        mine = self._mine()
        if warn and self.handles and not mine:
            warnings.warn(_ELSEWHERE, AdaptVisWarning, stacklevel=2)
        for handle in mine:
            if handle.is_paused:
                continue
            if handle.is_off:
                return None
            if getattr(handle, kind) is not None:
                return handle
        return None

    def _mine(self) -> list[SteeringHandle]:
        """The handles that steer the running code, the first to ask first."""
        handles = self.handles[::-1]
        if all(handle.block is None for handle in handles):
            return handles
        frames = frames_of_caller()
        mine = [h for h in handles if h.block is None or h.block.holds(frames)]
        depths = {h: h.block.depth(frames) for h in mine if h.block is not None}
        # The innermost block on the call stack first, also where its generator began before others.
        nested = {h: depth for h, depth in depths.items() if depth is not None}
        if not nested:
            _check_rivals([h.block for h in mine if h.block is not None])
        innermost = iter(sorted(nested, key=nested.__getitem__))
        return [next(innermost) if handle in nested else handle for handle in mine]

    def remove(self, handle: SteeringHandle) -> None:
        with LOCK:
            if handle not in self.handles:
                return
            if len(self.handles) == 1:
                self.patched.remove()
                model = self._model()
                if model is not None:
                    model.__dict__.pop(_ATTRIBUTE, None)
            # A new list: other threads may be walking the old one.
            self.handles = [other for other in self.handles if other is not handle]


def _is_inside_any(blocks: list[Block]) -> bool:
    # Walking the call stack is for the few who have such blocks.
    frames = frames_of_caller() if blocks else {}
    return any(block.holds(frames) for block in blocks)


def _check_rivals(blocks: list[Block]) -> None:
    if any(blocks[0].rivals(other) for other in blocks[1:]):
        raise UnsupportedError(
            "Two generators have a steer block of this model open in one context, so a thread or "
            "task that one of them starts cannot tell which is meant; run each generator in a task "
            "of its own, or open adaptvis.steer inside the thread"
        )


def split_configs(
    configs: Configs,
) -> tuple[ScalingVis | AdaptVis | None, NormRescale | None, Amplify | None]:
    """At most one attention method, one NormRescale and one Amplify.

    Raises:
        ConfigError: two of a kind, an empty list or something else.
    """
    if configs is None:
        return None, None, None
    single = isinstance(configs, SteeringConfig)
    if not single and not isinstance(configs, list | tuple):
        raise ConfigError(_not_a_config(configs))
    if not configs:
        raise ConfigError("An empty list steers nothing; None switches steering off")
    items = [configs] if single else configs
    attention: list[ScalingVis | AdaptVis] = []
    norms: list[NormRescale] = []
    amplify: list[Amplify] = []
    for item in items:
        if isinstance(item, NormRescale):
            norms.append(item)
        elif isinstance(item, Amplify):
            amplify.append(item)
        elif isinstance(item, ScalingVis | AdaptVis):
            attention.append(item)
        else:
            raise ConfigError(_not_a_config(item))
    if len(attention) > 1 or len(norms) > 1 or len(amplify) > 1:
        raise ConfigError(
            "One patch takes at most one attention method, one NormRescale and one Amplify, got "
            f"{len(attention)}, {len(norms)} and {len(amplify)}"
        )
    return next(iter(attention), None), next(iter(norms), None), next(iter(amplify), None)


def _not_a_config(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, SteeringConfig):
        return f"Steering takes a configuration and got the class; write {value.__name__}(...)"
    return (
        "Steering takes ScalingVis, AdaptVis, NormRescale or Amplify, got "
        f"{type(value).__name__}; adaptvis.config.parse_config builds one from a mapping"
    )


_ELSEWHERE = (
    "This model is steered by a with-block of another thread, task or generator only, so this call "
    "is not; open adaptvis.steer where the call is made, start the thread with "
    "contextvars.copy_context().run, or use adaptvis.patch to steer every call"
)
