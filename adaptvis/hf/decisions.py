"""What steering did to each prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Decision", "DecisionBatch"]


@dataclass(frozen=True)
class Decision:
    """One prompt of the last prefill.

    confidence: largest softmax probability of the first generated token, unsteered.
    alpha: the coefficient that was used; 1.0 where nothing was steered.
    applied: whether the prompt was steered; ``reason`` says why not.
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
        """One :class:`Decision` per prompt, in order."""
        decisions = []
        confidences, alphas = self.confidence.tolist(), self.alpha.tolist()
        for confidence, alpha, reason in list(zip(confidences, alphas, self.reasons, strict=True))[
            :: self.rows_per_prompt
        ]:
            if not reason and alpha == 1:
                reason = "alpha is 1"
            decisions.append(Decision(confidence, alpha, not reason, reason))
        return decisions
