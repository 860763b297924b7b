"""The other end of :mod:`vllm_bench.worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from adaptvis.config import SteeringConfig

__all__ = ["EngineProcess", "environment"]


def environment(plugin: bool) -> dict[str, str]:
    """Of an engine's process: with or without the plugin, one thread, little memory."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).parents[1]), *([before] if before else [])]
    return os.environ | {
        "ADAPTVIS_DISABLE": "0" if plugin else "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "HF_HUB_OFFLINE": "1",
    }


class EngineProcess:
    """One loaded engine; a context manager that leaves no process behind."""

    def __init__(self, settings: dict[str, Any], *, plugin: bool, log: IO[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vllm_bench.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(plugin),
        )

    def __enter__(self) -> EngineProcess:
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def answer(self, config: SteeringConfig | None, new_tokens: int) -> dict[str, Any]:
        """Seconds and token ids of one batch of all requests."""
        assert self._process.stdin is not None
        values = None if config is None else config.to_dict()
        self._process.stdin.write(json.dumps({"config": values, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("an engine's process ended; its log says why")
        result: dict[str, Any] = json.loads(line)
        return result
