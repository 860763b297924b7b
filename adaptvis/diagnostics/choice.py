"""Which questions an instrument takes, the same in its command and in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from adaptvis.data.relation_pairs import relation_pairs
from adaptvis.errors import ConfigError
from adaptvis.tasks import Part, Sample, Task
from adaptvis.tasks.generated import task_samples

__all__ = ["Items", "amplification_items", "chance", "spread"]

_Any = TypeVar("_Any")


@dataclass(frozen=True)
class Items:
    """Questions, and which of them must be answered rightly together.

    items: for each sample the item it belongs to; None where each is its own.
    name: what the questions are called in a result.
    """

    samples: list[Sample]
    items: list[str] | None
    name: str


def amplification_items(
    task: Task, *, part: Part = "test", limit: int = 50, seed: int = 0, published: bool = False
) -> Items:
    """What amplification asks: relations of 2DS both ways, one per picture; else questions.

    Args:
        limit: items.
        published: whether the task reads published questions; those of 2DS are taken as they are.

    Raises:
        ConfigError: relations of both parts at once. DataError: see :meth:`Task.load`.
    """
    if task.name != "2ds" or published:
        return Items(task.load(limit, part), None, task.name)
    if part == "all":
        raise ConfigError(f"Relations of 2ds have a validation and a test part, got {part!r}")
    samples = task_samples(relation_pairs(part, limit, seed))
    return Items(samples, [sample.image_id for sample in samples], "2ds, relations both ways")


def spread(samples: Sequence[_Any], count: int) -> list[_Any]:
    """``count`` of the samples, evenly apart: neighbours are about the same image."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def chance(samples: Sequence[Sample], items: Sequence[str] | None = None) -> float | None:
    """Mean over items of guessing all their questions; None where one has no candidates.

    Args:
        items: for each sample the item that it belongs to; None where each is its own.
    """
    if not all(sample.candidates for sample in samples):
        return None
    own = [sample.id for sample in samples] if items is None else list(items)
    guessed = dict.fromkeys(own, 1.0)
    for name, sample in zip(own, samples, strict=True):
        guessed[name] /= len(sample.candidates)
    return float(np.mean(list(guessed.values())))
