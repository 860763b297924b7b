"""The plugin's part in workers: hooks of their runners, and answers about steering.

Runners are hooked when a worker takes its device: their modules are large, and front ends, which
run the plugin as well, never need them.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm.v1.worker.worker_base import WorkerBase, WorkerWrapperBase

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.engine_guard import check_front_end
from adaptvis.vllm.plugin import DISABLE, check_vllm

__all__ = ["DECISIONS", "TOTALS", "install_worker"]

DECISIONS = "adaptvis_decisions"
TOTALS = "adaptvis_totals"


def install_worker() -> None:
    """Add two methods (for ``collective_rpc``) and the hooks; a second call changes nothing."""
    setattr(WorkerBase, DECISIONS, _decisions)
    setattr(WorkerBase, TOTALS, _totals)
    init_device = WorkerWrapperBase.init_device
    if getattr(init_device, "_adaptvis", False):
        return

    @functools.wraps(init_device)
    def hooked(self: Any) -> None:
        from adaptvis.vllm.norms import install_norm_rescale

        check_front_end(self.vllm_config)
        if self.vllm_config.use_v2_model_runner:
            from adaptvis.vllm.runner_v2 import install_runner_v2 as install_runner
        else:
            from adaptvis.vllm.runner_v1 import install_runner_v1 as install_runner

        _check_runner()
        install_runner()
        install_norm_rescale()
        init_device(self)

    hooked._adaptvis = True  # type: ignore[attr-defined]
    WorkerWrapperBase.init_device = hooked


def _check_runner() -> None:
    """What another plugin has put into the runner can be seen only once that is imported.

    Raises:
        UnsupportedError: requests would be taken for steered, and not be.
    """
    try:
        check_vllm()
    except UnsupportedError as error:
        raise UnsupportedError(
            f"adaptvis cannot steer this engine: {error}, or take away what "
            f"changes it, or run vLLM with {DISABLE}=1"
        ) from None


def _decisions(self: Any, request_ids: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """See :meth:`adaptvis.vllm.decision_store.DecisionStore.read`."""
    steering = getattr(self.model_runner, "adaptvis", None)
    return {} if steering is None else steering.decisions.read(request_ids)


def _totals(self: Any) -> dict[str, Any]:
    """See :meth:`adaptvis.vllm.decision_store.DecisionStore.totals`."""
    steering = getattr(self.model_runner, "adaptvis", None)
    return {} if steering is None else steering.decisions.totals()
