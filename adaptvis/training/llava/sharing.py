"""How a stage's global batch is shared by the processes."""

from __future__ import annotations

import math
from typing import NamedTuple

from adaptvis.errors import ConfigError
from adaptvis.training.llava.recipe import Recipe, Stage

__all__ = ["Share", "require_shareable", "share_of"]


class Share(NamedTuple):
    """Conversations of one process: so many at once, so many times per optimiser step."""

    at_once: int
    times: int


def share_of(stage: Stage, world: int) -> Share:
    """One process's share; fewer at once than `per_device_batch` where the step has no more.

    Raises:
        ConfigError: the processes cannot have equal shares.
    """
    each, left = divmod(stage.global_batch, world)
    if left or not each:
        full = world * stage.per_device_batch
        raise ConfigError(
            f"{stage.name} has a global batch of {stage.global_batch}, which {world} processes "
            f"cannot share evenly; start {_nearest_divisor(stage.global_batch, world)} processes, "
            f"or set stages.{stage.name}.global_batch={full * max(1, stage.global_batch // full)}"
        )
    at_once = math.gcd(stage.per_device_batch, each)
    return Share(at_once, each // at_once)


def require_shareable(recipe: Recipe, world: int) -> None:
    """Refuse a number of processes that some stage's global batch cannot be shared by.

    Raises:
        ConfigError: which stage, and what would do.
    """
    for stage in recipe.stages:
        share_of(stage, world)


def _nearest_divisor(batch: int, world: int) -> int:
    return max(n for n in range(1, min(batch, world) + 1) if batch % n == 0)
