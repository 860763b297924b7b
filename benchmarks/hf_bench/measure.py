"""Generation of a fixed length, and contestants timed in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.progress import track


@torch.inference_mode()
def generate(model: Any, inputs: dict[str, torch.Tensor], new_tokens: int) -> torch.Tensor:
    """The new tokens [B, new_tokens], greedy."""
    return model.generate(
        **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )[:, inputs["input_ids"].shape[1] :]


def compare(rounds: int, label: str, **contestants: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each contestant over interleaved rounds.

    A warm-up round comes first, except before a single round, which is long enough without.
    """
    return {name: median(s) for name, s in interleaved(rounds, label, **contestants).items()}


def interleaved(
    rounds: int, label: str, **contestants: Callable[[], Any]
) -> dict[str, list[float]]:
    """As :func:`compare`, the seconds of every round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    warm_up = int(rounds > 1)
    for index in track(range(rounds + warm_up), description=label):
        for name, run in contestants.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if index >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
