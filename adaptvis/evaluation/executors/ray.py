"""Engines on the workers of a Ray cluster: one copy of the model each, batches dealt out in turn.

A worker that dies is started again by Ray, and its batch goes to another one. Outcomes come back
in the order of the questions, so the records are those of a local run.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptvis.engine import Engine
from adaptvis.errors import AdaptVisError, ConfigError
from adaptvis.evaluation.asking import Asker, Outcome, Request
from adaptvis.tasks import Sample

__all__ = ["RayExecutor"]

_MOST_ATTEMPTS = 3
# One batch is answered while the next one is on its way.
_BATCHES_PER_WORKER = 2
_SECONDS_TO_RESTART = 1.0
_LONGEST_RESTART = 60.0


class _Worker:
    """What runs in a process of the cluster; loads at the first call, also when started again.

    An error of the constructor would reach the driver as a dead worker, without its kind.
    """

    def __init__(self, load: Callable[[], Engine], batch_size: int | None) -> None:
        self._load = load
        self._batch_size = batch_size

    @cached_property
    def _asker(self) -> Asker:
        return Asker(self._load(), self._batch_size)

    def is_started(self) -> bool:
        """Answers without loading anything."""
        return True

    def describe(self) -> dict[str, str]:
        return {**self._asker.engine.describe(), "batch_size": str(self._asker.batch_size)}

    def ask(self, samples: Sequence[Sample], request: Request) -> list[Outcome]:
        return [o for outcomes in self._asker.ask(samples, request) for o in outcomes]


@dataclass
class _Batch:
    """Questions on their way; `attempts` counts the workers that got them."""

    samples: Sequence[Sample]
    worker: int = 0
    reference: Any = None
    attempts: int = 0


class RayExecutor:
    """See :class:`adaptvis.evaluation.executors.base.Executor`.

    Args:
        address: of an existing cluster; default `RAY_ADDRESS`, or a cluster on this machine.
        workers: copies of the model; default one per GPU of the cluster, or one per CPU core.

    Images are opened by the workers: files must be reachable under the same path everywhere, and
    adaptvis must be installed there.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or `workers` is below 1.
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"The number of workers must be at least 1, got {workers}")
        # Ray reports its use over the network unless told otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "The executor ray needs Ray, which is not installed; pip install 'adaptvis[ray]' "
                "brings it"
            ) from None
        self._ray: Any = ray
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._count = workers
        self._workers: list[Any] = []
        self._batch_size = 1
        self._description: dict[str, str] = {}

    def open(self, load: Callable[[], Engine], batch_size: int | None) -> None:
        self._connect()
        self.close()
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        count = self._count or gpus or cores
        # Fractions let more workers than there are GPUs or cores share them.
        needs = {"num_gpus": min(1.0, gpus / count)} if gpus else {}
        worker = self._ray.remote(_Worker).options(
            num_cpus=min(1.0, cores / count), max_restarts=-1, **needs
        )
        self._workers = [worker.remote(load, batch_size) for _ in range(count)]
        # All of them, so that they load at the same time and a failure is found now.
        loading = [(worker, worker.describe.remote()) for worker in self._workers]
        descriptions = [self._loaded(worker, reference) for worker, reference in loading]
        self._description = descriptions[0]
        self._batch_size = int(self._description["batch_size"])

    def ask(self, samples: Sequence[Sample], request: Request) -> Iterator[list[Outcome]]:
        waiting = deque(
            _Batch(samples[start : start + self._batch_size])
            for start in range(0, len(samples), self._batch_size)
        )
        running: deque[_Batch] = deque()
        shared = self._ray.put(request)
        turn = 0
        while waiting or running:
            while waiting and len(running) < _BATCHES_PER_WORKER * len(self._workers):
                batch = waiting.popleft()
                self._send(batch, turn, shared)
                running.append(batch)
                turn += 1
            yield self._outcomes(running.popleft(), shared)

    def describe(self) -> dict[str, str]:
        return {
            **self._description,
            "executor": "ray",
            "ray": str(self._ray.__version__),
            "workers": str(len(self._workers)),
        }

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        try:
            _check_reachable(self._address or "")
            self._ray.init(
                # Without a word Ray would look for traces of earlier clusters on this machine.
                address=self._address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                # An existing cluster has a dashboard or not, and refuses the question.
                **({} if self._address else {"include_dashboard": False}),
            )
        except (OSError, ValueError, RuntimeError) as problem:
            raise ConfigError(
                f"The Ray cluster {self._address or 'on this machine'} cannot be reached "
                f"({' '.join(str(problem).split())}); give --ray-address or RAY_ADDRESS the "
                "address of a running one"
            ) from None

    def _loaded(self, worker: Any, reference: Any) -> dict[str, str]:
        """What a worker says of its model; where it died of loading, Ray starts it again."""
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                description: dict[str, str] = self._get(reference)
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError as problem:
                if attempt == _MOST_ATTEMPTS:
                    raise AdaptVisError(
                        f"A worker died {_MOST_ATTEMPTS} times while it loaded the model "
                        f"({type(problem).__name__}); look at Ray's logs for the cause, often too "
                        "little memory, and give fewer --workers"
                    ) from None
                self._wait_until_started(worker)
                reference = worker.describe.remote()
            else:
                return description
        raise AssertionError("unreachable")

    def _wait_until_started(self, worker: Any) -> None:
        """A call before Ray has noticed a death, or while it starts anew, fails of it, too."""
        until = time.monotonic() + _LONGEST_RESTART
        while time.monotonic() < until:
            time.sleep(_SECONDS_TO_RESTART)
            try:
                self._ray.get(worker.is_started.remote())
            except self._ray.exceptions.RayError:
                continue
            return

    def _send(self, batch: _Batch, turn: int, request: Any) -> None:
        batch.worker = turn % len(self._workers)
        batch.attempts += 1
        batch.reference = self._workers[batch.worker].ask.remote(batch.samples, request)

    def _outcomes(self, batch: _Batch, request: Any) -> list[Outcome]:
        """Wait for a batch; where its worker died, the next one gets it."""
        while True:
            try:
                outcomes: list[Outcome] = self._get(batch.reference)
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError:
                # Dead, killed for its memory, or on a machine that is gone.
                if batch.attempts == _MOST_ATTEMPTS:
                    raise AdaptVisError(
                        f"{_MOST_ATTEMPTS} workers died on one batch of {len(batch.samples)} "
                        "questions; look at Ray's logs, and go on with --resume and a smaller "
                        "--batch-size"
                    ) from None
                self._send(batch, batch.worker + 1, request)
            else:
                return outcomes

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as problem:
            # The worker's own exception, without the traceback of a process elsewhere.
            cause = getattr(problem, "cause", problem)
            raise cause from None


def _check_reachable(address: str) -> None:
    """Fail within seconds: Ray itself keeps trying an address without a cluster for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
