"""Prompts through a model, batch by batch, for instruments that look at the prompt only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from adaptvis.config import SteeringConfig
from adaptvis.errors import AdaptVisWarning
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.patch import steer
from adaptvis.tasks import Sample

__all__ = ["Progress", "batches", "prefill", "silent", "watched"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many questions are done, and how many there are."""


def silent(doing: str, done: int, total: int) -> None:
    """No progress is shown."""


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """The samples in order, ``size`` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@torch.inference_mode()
def prefill(engine: HFEngine, inputs: dict[str, Tensor], config: SteeringConfig | None) -> None:
    """Run prompts as ``generate`` would, steered or not, up to their first answer token.

    Args:
        inputs: what :meth:`HFEngine.encode` returned.
    """
    import warnings

    with steer(engine.model, config, processor=engine.processor), warnings.catch_warnings():
        # A prompt that cannot be steered is looked at as it is.
        warnings.simplefilter("ignore", AdaptVisWarning)
        engine.model.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=1)


@contextmanager
def watched(modules: Sequence[Any], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Inside the block, ``see(index, hidden)`` gets each module's output [B, n, D]."""
    with ExitStack() as stack:
        for index, module in enumerate(modules):

            def hook(_: Any, __: Any, output: Any, index: int = index) -> None:
                see(index, output[0] if isinstance(output, tuple) else output)

            handle = module.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield
