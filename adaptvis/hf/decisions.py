"""What steering did to each prompt."""

from __future__ import annotations

import math
import warnings
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from adaptvis.errors import AdaptVisWarning
from adaptvis.hf.blocks import strand
from adaptvis.steering.policy import NOT_A_NUMBER

__all__ = ["Decision", "DecisionBatch", "Latest"]


@dataclass(frozen=True)
class Decision:
    """One prompt of the last prefill.

    confidence: largest softmax probability of the first generated token, unsteered.
    alpha: the coefficient that was used; 1.0 where nothing was steered.
    applied: whether the prompt was steered; ``reason`` says why not, or that the model's logits are
        no numbers, so that its answer is none either.
    """

    confidence: float
    alpha: float
    applied: bool
    reason: str = ""


@dataclass(frozen=True)
class DecisionBatch:
    """The same for a batch, still on the device: read only when somebody asks.

    confidence, alpha: float32 [B]. reasons: one per prompt, empty where steering applies.
    rows_per_prompt: beams or returned sequences that share a prompt.
    """

    confidence: Tensor
    alpha: Tensor
    reasons: tuple[str, ...]
    rows_per_prompt: int = 1

    def to_list(self) -> list[Decision]:
        """One :class:`Decision` per prompt, in order; warns where logits are no numbers."""
        decisions = []
        confidences, alphas = self.confidence.tolist(), self.alpha.tolist()
        for confidence, alpha, reason in list(zip(confidences, alphas, self.reasons, strict=True))[
            :: self.rows_per_prompt
        ]:
            if not reason and math.isnan(confidence):
                reason = NOT_A_NUMBER
            if not reason and alpha == 1:
                reason = "alpha is 1"
            decisions.append(Decision(confidence, alpha, not reason, reason))
        broken = sum(decision.reason == NOT_A_NUMBER for decision in decisions)
        if broken:
            warnings.warn(
                f"{broken} of {len(decisions)} prompts: {NOT_A_NUMBER}",
                AdaptVisWarning,
                stacklevel=3,
            )
        return decisions


class Latest:
    """The decisions of the latest prefill, as the context that asks sees them.

    A context (thread, task) sees its own latest, or that of a copy of it which ran meanwhile
    (``asyncio.to_thread``); one that has run none sees anybody's.
    """

    def __init__(self) -> None:
        self._anybody: DecisionBatch | None = None

    def keep(self, decisions: DecisionBatch | None) -> None:
        """Decisions of a prefill in this context; None forgets them."""
        known, here = _entries.get(), strand()
        inherited = None if known is None else known.get(self)
        older = [] if inherited is None else [inherited, *inherited.living_parents()]
        for entry in older:
            if not entry.waits_for(here):
                break
            entry.decisions, here = decisions, entry.strand
        # A new mapping: contexts that were copied from this one share the old.
        entries = WeakKeyDictionary() if known is None else WeakKeyDictionary(known)
        entries[self] = _Entry(decisions, strand(), [ref(entry) for entry in older])
        _entries.set(entries)
        self._anybody = decisions

    def get(self) -> DecisionBatch | None:
        """The latest decisions, or None."""
        known = _entries.get()
        entry = None if known is None else known.get(self)
        return self._anybody if entry is None else entry.decisions


@dataclass(eq=False)
class _Entry:
    """What one context sees. parents: the entries of contexts that it was copied from."""

    decisions: DecisionBatch | None
    strand: tuple[Any, Any]
    parents: list[ref[_Entry]]

    def living_parents(self) -> list[_Entry]:
        """The nearest first; an entry dies when no context has it any more."""
        return [parent for one in self.parents if (parent := one()) is not None]

    def waits_for(self, other: tuple[Any, Any]) -> bool:
        """Whether what runs in ``other`` runs for this context; another task runs for itself."""
        return None in (self.strand[1], other[1]) or self.strand[1] == other[1]


# Weak keys: a context that lives on does not keep handles alive.
_entries: ContextVar[WeakKeyDictionary[Latest, _Entry] | None] = ContextVar(
    "adaptvis_decisions", default=None
)
