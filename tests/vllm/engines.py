"""Offline engines for the tests: made once, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vllm import LLM
from vllm.platforms.cpu import CpuPlatform

__all__ = ["BLOCK_SIZE", "make_engine", "schedule_asynchronously", "steering_of"]

BLOCK_SIZE = 32


def make_engine(model: Path, **options: Any) -> LLM:
    """A float32 engine with little of everything: short chunks, small blocks, eight requests."""
    settings: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "block_size": BLOCK_SIZE,
        "max_logprobs": -1,
        "limit_mm_per_prompt": {"image": 2},
    }
    return LLM(model=str(model), **(settings | options))


def steering_of(llm: LLM) -> Any:
    """The plugin's state in the worker of an in-process engine."""
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner.adaptvis


def schedule_asynchronously(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; vLLM turns it off on a CPU."""
    update = CpuPlatform.check_and_update_config

    def with_async_scheduling(config: Any) -> None:
        update(config)
        config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(with_async_scheduling))
