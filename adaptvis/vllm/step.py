"""What steering needs of a step of vLLM's: two model runners give it, each in its own module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptvis.vllm.plan import Blocks

__all__ = ["EarlierRows", "Rows", "StepAdapter"]


@dataclass(frozen=True)
class Rows:
    """A request's part of a step, in the order of the batch.

    computed: its tokens before the step; scheduled: tokens of the step. start: its first row in
    the step's buffers.
    """

    request_id: str
    computed: int
    scheduled: int
    start: int


@dataclass(frozen=True)
class EarlierRows:
    """Prompt tokens that an earlier step computed.

    token_ids: int [n]. positions: int [3, n], where the model's positions have several parts.
    """

    token_ids: Tensor
    positions: Tensor | None


class StepAdapter(ABC):
    """One runner, between its ``execute_model`` and its ``sample_tokens``."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    @abstractmethod
    def rows(self, scheduler_output: Any) -> list[Rows]:
        """The requests of the step just run."""

    @abstractmethod
    def blocks(self) -> list[Blocks]:
        """The block tables of the step's requests, one for each key-value cache group."""

    @abstractmethod
    def logits(self, indices: Sequence[int]) -> Tensor:
        """[n, V], of the last rows of requests of the batch, unsteered."""

    @property
    @abstractmethod
    def token_ids(self) -> Tensor:
        """Int [T], on the device."""

    @property
    @abstractmethod
    def embeddings(self) -> Tensor:
        """[T, hidden], the decoder's input, images put in."""

    @property
    @abstractmethod
    def rope_positions(self) -> Tensor | None:
        """Int [3, T], where the model's positions have several parts."""

    @abstractmethod
    def earlier(self, index: int, begin: int, end: int) -> EarlierRows:
        """Positions [begin, end) of a request's prompt, behind its images."""

    @abstractmethod
    def forward(self, **inputs: Any) -> Tensor:
        """The decoder's hidden states, [T, hidden]; attention metadata is set by the caller."""

    @abstractmethod
    def replace(self, indices: Tensor, last_rows: Tensor, hidden: Tensor) -> None:
        """Put ``hidden`` [n, hidden] in place of the last rows of n requests.

        Args:
            indices: int [n], places in the batch. last_rows: int [n], rows of the step's buffers.
        """
