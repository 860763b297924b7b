"""Which rows of a step are run again, and in what passes; numbers only, no engine.

After a step the engine has computed some tokens of each request. The rows from the first steered
one to the last computed one are run again with their coefficients: once when the last prompt token
is reached, and again for whatever a preempted request computes anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptvis.vllm.parameters import AttentionConfig

__all__ = ["Blocks", "Piece", "Progress", "SteeredRequest", "interval", "passes", "sharers"]


@dataclass
class SteeredRequest:
    """A request that is steered, for as long as the engine knows it.

    first_row: the first steered position of the prompt.
    image_columns: bool [prompt_length], the steered image tokens.
    alpha, confidence: float32 [] on the engine's device, once the prompt's end was reached. They
        outlive a preemption: the coefficient belongs to the request.
    """

    request_id: str
    config: AttentionConfig
    prompt_length: int
    first_row: int
    image_columns: NDArray[np.bool_]
    alpha: Tensor | None = None
    confidence: Tensor | None = None

    @property
    def last_row(self) -> int | None:
        """The last steered position; None where decode steps are steered, too."""
        return None if self.config.rows == "generated" else self.prompt_length - 1

    def is_done(self, computed: int) -> bool:
        """Whether no row behind ``computed`` tokens is steered."""
        return self.alpha is not None and self.last_row is not None and computed > self.last_row


@dataclass(frozen=True)
class Progress:
    """What one step did for one request.

    index: its place in the batch. computed: tokens before the step; scheduled: tokens of the step.
    query_start: its first row in the step's buffers. request: None where it is not steered.
    """

    index: int
    computed: int
    scheduled: int
    query_start: int
    request: SteeredRequest | None = None

    @property
    def end(self) -> int:
        return self.computed + self.scheduled


@dataclass(frozen=True)
class Piece:
    """Rows [begin, end) of one request that are run again together."""

    progress: Progress
    begin: int
    end: int

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.arange(self.begin, self.end)

    @property
    def step_rows(self) -> NDArray[np.int64]:
        """Rows in the step's buffers; negative for positions that an earlier step computed."""
        progress = self.progress
        rows = self.positions - progress.computed
        return np.where(rows >= 0, rows + progress.query_start, -1)

    @property
    def steered(self) -> NDArray[np.bool_]:
        """Which of the rows take the coefficient."""
        request = self.progress.request
        if request is None:
            return np.zeros(self.end - self.begin, dtype=bool)
        steered = self.positions >= request.first_row
        return (
            steered if request.last_row is None else steered & (self.positions <= request.last_row)
        )


def interval(progress: Progress) -> tuple[int, int] | None:
    """The positions that must be run again after a step, half-open; None if there are none."""
    request = progress.request
    if request is None or progress.end <= request.first_row:
        return None
    if request.alpha is None:
        # Without the prompt's end there is no confidence. Rows of earlier steps wait for it, too.
        undecided = progress.end < request.prompt_length
        return None if undecided else (request.first_row, progress.end)
    if request.last_row is not None and progress.computed > request.last_row:
        return None
    return max(request.first_row, progress.computed), progress.end


@dataclass(frozen=True)
class Blocks:
    """The block table on the host: int32 [batch, blocks], ``size`` tokens per block."""

    table: NDArray[np.int32]
    size: int

    def row(self, index: int) -> NDArray[np.int32]:
        return self.table[index]

    def slots(self, index: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where positions of a request lie in the cache."""
        block: NDArray[np.int64] = self.table[index, positions // self.size].astype(np.int64)
        return block * self.size + positions % self.size


def sharers(planned: Iterable[Piece], others: Iterable[Progress], blocks: Blocks) -> list[Piece]:
    """Rows of other requests that read, in this very step, keys that are about to change.

    That takes a block that became full with a prompt's last token, and a request with the same
    prompt and configuration that was preempted and came back in the same step.
    """
    changing = {
        int(block)
        for piece in planned
        for block in blocks.row(piece.progress.index)[
            piece.begin // blocks.size : -(-piece.end // blocks.size)
        ]
    }
    found = []
    for progress in others:
        read = blocks.row(progress.index)[: -(-progress.computed // blocks.size)]
        if changing.intersection(read.tolist()):
            found.append(Piece(progress, progress.computed, progress.end))
    return found


def passes(pieces: Sequence[Piece], most_rows: int) -> Iterator[list[Piece]]:
    """Deal pieces to passes of at most ``most_rows`` rows; long ones are cut, in order.

    Pieces of requests with the same choice of heads stay together.
    """
    waiting = sorted(pieces, key=_heads)
    while waiting:
        room, now, later = most_rows, [], []
        for piece in waiting:
            stop = min(piece.end, piece.begin + room)
            if stop > piece.begin:
                now.append(Piece(piece.progress, piece.begin, stop))
                room -= stop - piece.begin
            if stop < piece.end:
                later.append(Piece(piece.progress, stop, piece.end))
        yield now
        waiting = later


def _heads(piece: Piece) -> tuple[int, ...]:
    request = piece.progress.request
    return () if request is None else request.config.heads or ()
