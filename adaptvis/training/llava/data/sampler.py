"""The order of samples: batches of one modality and similar length, as LLaVA groups them."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import Sampler

from adaptvis.errors import ConfigError

__all__ = ["ModalityLengthSampler", "WholeSteps"]


class ModalityLengthSampler(Sampler[int]):
    """A permutation of all samples in which megabatches are of one modality and sorted by length.

    A megabatch is one batch for each process. Samples of a modality are shuffled, cut into
    megabatches, sorted within (longest first) and dealt to the processes so that each gets about
    as many tokens; then the megabatches are shuffled. What is left of both modalities, less than a
    megabatch each, comes last and may be mixed (LLaVA also mixes the last full ones). The order
    depends on (lengths, batch_size, world_size, seed, epoch) only.

    Args:
        lengths: tokens per sample, negative for samples without image.
        batch_size: samples per process and step.
        world_size: processes; LLaVA multiplies it by the gradient accumulation steps.
        seed: of the shuffling, together with the epoch.

    Raises:
        ConfigError: batch_size or world_size below 1, or a length of 0.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, world_size: int = 1, *, seed: int = 0
    ) -> None:
        for name, value in (("batch_size", batch_size), ("world_size", world_size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if 0 in lengths:
            raise ConfigError(
                f"Sample {list(lengths).index(0)} has length 0; lengths are positive with images, "
                "negative without"
            )
        self.lengths = lengths
        self.batch_size, self.world_size = batch_size, world_size
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        whole: list[list[int]] = []
        rest: list[int] = []
        size = self.batch_size * self.world_size
        for sign in (1, -1):
            of_modality = [i for i, length in enumerate(self.lengths) if length * sign > 0]
            shuffled = torch.randperm(len(of_modality), generator=generator).tolist()
            indices = [of_modality[i] for i in shuffled]
            full = len(indices) - len(indices) % size
            whole += [self._dealt(indices[i : i + size]) for i in range(0, full, size)]
            rest += self._longest_first(indices[full:])
        for i in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[i]
        yield from rest

    def _longest_first(self, indices: list[int]) -> list[int]:
        return sorted(indices, key=lambda i: (-abs(self.lengths[i]), i))

    def _dealt(self, megabatch: list[int]) -> list[int]:
        """One batch after the other; each next sample goes to the batch with the fewest tokens."""
        batches: list[list[int]] = [[] for _ in range(self.world_size)]
        tokens = [0] * self.world_size
        for index in self._longest_first(megabatch):
            open_batches = (b for b in range(self.world_size) if len(batches[b]) < self.batch_size)
            fewest = min(open_batches, key=lambda b: (tokens[b], b))
            batches[fewest].append(index)
            tokens[fewest] += abs(self.lengths[index])
        return [index for batch in batches for index in batch]


class WholeSteps(Sampler[int]):
    """Another sampler's order, filled up from its own beginning to whole optimiser steps.

    accelerate fills up the last batch of each process, with other samples for other numbers of
    processes; of whole steps there is nothing to fill up.

    Args:
        order: has samples, and `set_epoch`.
        size: samples of a step, over all processes.
    """

    def __init__(self, order: Any, size: int) -> None:
        self.order, self.size = order, size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size) * self.size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration gives."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        yield from islice(cycle(self.order), len(self))
