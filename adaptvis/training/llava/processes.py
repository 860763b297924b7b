"""What the training's processes agree on: who writes, and when all have arrived."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from adaptvis.errors import AdaptVisError, UnsupportedError

__all__ = [
    "FirstProcessFailed",
    "by_the_first",
    "first_before_others",
    "is_first",
    "on_cpu",
    "processes",
    "rank",
    "require_launchable",
    "wait",
]

Result = TypeVar("Result")


def on_cpu() -> bool:
    """Whether to train on the CPU: there is nothing else, or `accelerate launch --cpu` said so."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def require_launchable(*, lora: bool) -> None:
    """Refuse what `accelerate launch` was told and would not happen, or was never written.

    Raises:
        UnsupportedError: sharding on the CPU, where accelerate silently copies the model instead;
            or LoRA in shards, which could not be merged.
    """
    for flag, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if not parse_flag_from_env(flag):
            continue
        if on_cpu():
            raise UnsupportedError(
                f"{name} needs GPUs, and training runs on the CPU here; start it with "
                "accelerate launch --multi_gpu --num_processes N, which copies the model"
            )
        if lora:
            raise UnsupportedError(
                f"Adapters cannot be merged from {name}'s shards; train LoRA with accelerate "
                "launch --multi_gpu --num_processes N, which copies the model"
            )


def _state() -> PartialState:
    # Made first here, and without `cpu` it would not join processes that have no GPU.
    # The others wait while the first generates or checks data.
    return PartialState(cpu=on_cpu(), timeout=timedelta(hours=2))


def processes() -> int:
    """Number of training processes, over all nodes."""
    return int(_state().num_processes)


def is_first() -> bool:
    """Whether this is the one process that writes and speaks."""
    return bool(_state().is_main_process)


def wait() -> None:
    """Until every process is here."""
    _state().wait_for_everyone()


def rank() -> int:
    """Number of this process, over all nodes."""
    return int(_state().process_index)


class FirstProcessFailed(AdaptVisError):
    """The first process could not do what the others waited for, and says so itself."""


def by_the_first(work: Callable[[], object]) -> None:
    """Do the work in the first process while the others wait.

    A failure of the first, whatever it is, ends all; the others would wait for hours.

    Raises:
        FirstProcessFailed: in the others.
        Exception: in the first, what `work` raises.
    """
    if processes() == 1:
        work()
        return
    failure: list[str | None] = [None]
    if is_first():
        try:
            work()
        except Exception as error:
            broadcast_object_list([str(error) or type(error).__name__])
            raise
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise FirstProcessFailed(failure[0])


def first_before_others(work: Callable[[], Result]) -> Result:
    """Do the work in every process, in the first one first, so that a common failure is said once.

    Raises:
        FirstProcessFailed: in the others, when the first failed.
        Exception: what `work` raises.
    """
    done: list[Result] = []
    by_the_first(lambda: done.append(work()))
    return done[0] if done else work()
