"""Steering in vLLM's own ``/metrics``.

``adaptvis_requests_total{branch}``: requests by what was done: ``scalingvis``, ``adaptvis_low``,
``adaptvis_high``, or ``passed_through`` (not steered). ``adaptvis_confidence``: a histogram of the
confidence of steered requests. Each sample of a request (``n > 1``) counts.

The first tensor-parallel rank counts, because alpha is chosen there on the device. The API process
asks it when somebody scrapes, so that requests cost nothing; where the engine does not answer
within a second, the numbers are those of the last scrape.

Not served where vLLM runs several API processes (``--api-server-count``) or
``PROMETHEUS_MULTIPROC_DIR`` is set: the metrics of all processes then pass through files that only
prometheus_client's own counters write, and every process would add the same totals to the sum.
"""

from __future__ import annotations

import asyncio
import functools
import os
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from vllm.logger import init_logger
from vllm.v1.engine.async_llm import AsyncLLM

from adaptvis.vllm.decision_store import BUCKETS, DecisionStore
from adaptvis.vllm.worker import TOTALS

__all__ = ["SteeringCollector", "install_metrics"]

logger = init_logger("vllm.adaptvis")

_LONGEST_WAIT = 1.0


def install_metrics() -> None:
    """Report the steering of every ``AsyncLLM`` made from now on; a second call changes nothing."""
    initialize = AsyncLLM.__init__
    if getattr(initialize, "_adaptvis", False):
        return

    @functools.wraps(initialize)
    def initialized(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        _report(self)

    initialized._adaptvis = True  # type: ignore[attr-defined]
    AsyncLLM.__init__ = initialized


@functools.cache
def _collector() -> SteeringCollector:
    collector = SteeringCollector()
    REGISTRY.register(collector)
    return collector


def _report(engine: Any) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        logger.warning_once(
            "adaptvis adds nothing to /metrics where Prometheus collects from several processes."
        )
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # No server: whoever runs an engine outside of a loop reads decisions(llm).
        return
    try:
        _collector().follow(engine, loop)
    except ValueError as problem:
        logger.warning("adaptvis adds nothing to /metrics: %s", problem)


class SteeringCollector:
    """Turns the totals of the latest engine of this process into metrics, at every scrape."""

    def __init__(self) -> None:
        self._totals: Mapping[str, Any] = DecisionStore().totals()
        self._engine: Any = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None

    def follow(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Report this engine, whose calls run on ``loop``, from now on."""
        self._engine, self._loop = weakref.ref(engine), loop

    def describe(self) -> Iterator[Any]:
        """The metrics without numbers: registration must not ask the engine."""
        yield CounterMetricFamily(
            "adaptvis_requests", "Requests by what steering did to them.", labels=["branch"]
        )
        yield HistogramMetricFamily(
            "adaptvis_confidence", "Confidence of the first token of steered requests."
        )

    def collect(self) -> Iterator[Any]:
        """The metrics, with the newest totals to be had."""
        self._refresh()
        requests, confidence = self.describe()
        counts = self._totals["counts"]
        for branch, count in counts.items():
            requests.add_metric([branch], count)
        # A confidence is at most 1 except for rounding, so the last bucket takes all.
        steered = sum(count for branch, count in counts.items() if branch != "passed_through")
        buckets, below = [], 0
        for bound, count in zip(BUCKETS, self._totals["histogram"], strict=True):
            below += count
            buckets.append((str(bound), below))
        buckets.append(("+Inf", steered))
        confidence.add_metric([], buckets, self._totals["confidence_sum"])
        yield requests
        yield confidence

    def _refresh(self) -> None:
        """Ask the engine; whatever goes wrong, the last totals stay."""
        engine, loop = self._engine(), self._loop
        if engine is None or loop is None or not loop.is_running() or _in_loop():
            return
        asked = None
        try:
            asked = asyncio.run_coroutine_threadsafe(engine.collective_rpc(TOTALS), loop)
            totals = asked.result(_LONGEST_WAIT)[0]
        except Exception as problem:
            if asked is not None:
                asked.cancel()
            logger.warning_once(
                "adaptvis could not read the engine's totals for /metrics (%s).",
                str(problem) or type(problem).__name__,
            )
            return
        # Empty where the engine cannot be steered.
        self._totals = totals or self._totals


def _in_loop() -> bool:
    """Whether this thread runs an event loop, which must not wait for itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
