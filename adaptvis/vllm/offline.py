"""What steering did to requests of an offline engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Decision", "decisions"]


@dataclass(frozen=True)
class Decision:
    """One request.

    confidence: largest softmax probability of the first generated token, unsteered; None where the
        request was not steered and nothing was measured, or is not a number.
    alpha: the coefficient that was used; 1.0 where nothing was steered.
    applied: whether the request was steered; ``reason`` says why not.
    """

    confidence: float | None
    alpha: float
    applied: bool
    reason: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        return cls(values["confidence"], values["alpha"], values["applied"], values["reason"])


def decisions(llm: Any, request_ids: Iterable[str] | None = None) -> dict[str, Decision]:
    """Decisions of the latest requests (10 000 are kept) by ``RequestOutput.request_id``.

    Of several samples of a request (``n > 1``), which all decide alike, the last one is shown.

    Args:
        llm: a ``vllm.LLM``. request_ids: only these.
    """
    wanted = None if request_ids is None else list(request_ids)
    first_rank = llm.collective_rpc("adaptvis_decisions", args=(wanted,))[0]
    return {record["request_id"]: Decision.from_dict(record) for record in first_rank.values()}
