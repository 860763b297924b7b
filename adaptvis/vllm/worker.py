"""What vLLM's workers answer when they are asked about steering (``collective_rpc`` by name)."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.worker_base import WorkerBase

__all__ = ["DECISIONS", "TOTALS", "install_worker"]

DECISIONS = "adaptvis_decisions"
TOTALS = "adaptvis_totals"


def install_worker() -> None:
    """Add two methods to vLLM's workers; a second call changes nothing."""
    setattr(WorkerBase, DECISIONS, _decisions)
    setattr(WorkerBase, TOTALS, _totals)


def _decisions(self: Any, request_ids: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """See :meth:`adaptvis.vllm.decision_store.DecisionStore.read`."""
    steering = getattr(self.model_runner, "adaptvis", None)
    return {} if steering is None else steering.decisions.read(request_ids)


def _totals(self: Any) -> dict[str, Any]:
    """See :meth:`adaptvis.vllm.decision_store.DecisionStore.totals`."""
    steering = getattr(self.model_runner, "adaptvis", None)
    return {} if steering is None else steering.decisions.totals()
