"""Prompts through a model, batch by batch, for instruments that look at the prompt only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from adaptvis.config import SteeringConfig
from adaptvis.errors import AdaptVisWarning, DataError
from adaptvis.evaluation.asking import failure_sentence
from adaptvis.evaluation.error_limit import ErrorLimit
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.greedy import greedy_generation
from adaptvis.hf.patch import steer
from adaptvis.tasks import Sample

__all__ = ["Progress", "askable", "batches", "fitting_batch", "prefill", "silent", "watched"]

# Prompts of so small a model take little memory however many there are at once.
_SMALL_MODEL = 50_000_000
_SMALL_MODEL_BATCH = 64

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many questions are done, and how many there are."""


def silent(doing: str, done: int, total: int) -> None:
    """No progress is shown."""


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """The samples in order, ``size`` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def fitting_batch(engine: HFEngine) -> int:
    """Questions at once: 64 for models up to 50 M parameters, 1 for others, to bound the memory."""
    return _SMALL_MODEL_BATCH if engine.model.num_parameters() <= _SMALL_MODEL else 1


def askable(engine: HFEngine, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that the model's processor takes, with a warning about those it does not.

    Instruments look at whole batches; one question that cannot be asked must not end them.

    Raises:
        DataError: more than 5 % cannot be asked.
    """
    taken, problems = [], []
    for sample in samples:
        try:
            engine.encode([sample.query()])
        except BaseException as problem:
            problems.append(f"{sample.id}: {failure_sentence(problem)}")
        else:
            taken.append(sample)
    if problems:
        limit = ErrorLimit()
        sentence = (
            f"{len(problems)} of {len(samples)} questions cannot be asked; the first: {problems[0]}"
        )
        if len(problems) > limit.allowed(len(samples)):
            raise DataError(f"{sentence}; more than {limit} are too many, so mend the data")
        warnings.warn(f"{sentence}; left out", AdaptVisWarning, stacklevel=2)
    return taken


@torch.inference_mode()
def prefill(engine: HFEngine, inputs: dict[str, Tensor], config: SteeringConfig | None) -> None:
    """Run prompts as ``generate`` would, steered or not, up to their first answer token.

    Args:
        inputs: what :meth:`HFEngine.encode` returned.
    """
    with (
        steer(engine.model, config, processor=engine.processor),
        greedy_generation(engine.model),
        warnings.catch_warnings(),
    ):
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
