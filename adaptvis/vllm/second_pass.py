"""One second pass: from pieces of requests to tensors, forward context and hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptvis.steering.backend import decide_each
from adaptvis.steering.paged import PagedRows
from adaptvis.vllm.attention import SteeredMetadata
from adaptvis.vllm.plan import Blocks, Piece, SteeredRequest

__all__ = ["HeadSlice", "decide", "metadata_of"]


@dataclass(frozen=True)
class HeadSlice:
    """The query heads of this tensor-parallel rank: [first, first + count) of the model's."""

    first: int
    count: int

    def mask(self, heads: tuple[int, ...] | None, device: torch.device) -> Tensor | None:
        if heads is None:
            return None
        mask = torch.zeros(self.count, dtype=torch.bool)
        own = [head - self.first for head in heads if 0 <= head - self.first < self.count]
        mask[own] = True
        return mask.to(device, non_blocking=True)


def decide(
    requests: Sequence[SteeredRequest],
    logits: Tensor,
    share: Callable[[Tensor], Tensor],
) -> list[tuple[Tensor, Tensor]]:
    """Set, and return, confidence and alpha of requests whose prompt has ended; no host sync.

    Args:
        logits: [n, V], of their last rows, unsteered.
        share: gives every tensor-parallel rank the first rank's values.
    """
    configs = [request.config for request in requests]
    both = share(torch.stack(decide_each(logits, configs)))
    decided = list(zip(both[0].unbind(0), both[1].unbind(0), strict=True))
    for request, (confidence, alpha) in zip(requests, decided, strict=True):
        request.confidence, request.alpha = confidence, alpha
    return decided


def metadata_of(
    pieces: Sequence[Piece], blocks: Sequence[Blocks], heads: HeadSlice, device: torch.device
) -> list[SteeredMetadata]:
    """The attention metadata of each key-value cache group for one pass."""
    alphas = _row_alphas(pieces, device)
    parts: list[list[tuple[slice, PagedRows]]] = [[] for _ in blocks]
    start = 0
    for chosen, members in groupby(pieces, key=_heads):
        own = list(members)
        counts = [piece.end - piece.begin for piece in own]
        lengths = [piece.end for piece in own]
        rows = slice(start, start + sum(counts))
        start = rows.stop
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        shared: dict[str, Any] = {
            "sequence_lengths": _to(np.array(lengths, dtype=np.int32), device),
            "row_starts": _to(starts, device),
            "lengths": lengths,
            "counts": counts,
            "image_columns": _to(_image_columns(own, max(lengths)), device),
            "heads": heads.mask(chosen, device),
        }
        for group, table in zip(parts, blocks, strict=True):
            width = -(-max(lengths) // table.size)
            numbers = np.stack([table.row(piece.progress.index)[:width] for piece in own])
            group.append((rows, PagedRows(block_table=_to(numbers, device), **shared)))
    return [SteeredMetadata(group, alphas) for group in parts]


def _heads(piece: Piece) -> tuple[int, ...] | None:
    request = piece.progress.request
    return None if request is None else request.config.heads


def _image_columns(pieces: Sequence[Piece], width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    columns = np.zeros((len(pieces), width), dtype=bool)
    for row, piece in zip(columns, pieces, strict=True):
        if piece.progress.request is not None:
            own = piece.progress.request.image_columns[:width]
            row[: len(own)] = own
    return columns


def _row_alphas(pieces: Sequence[Piece], device: torch.device) -> Mapping[int | None, Tensor]:
    """The coefficient of every row, by layer; None for layers that nobody chose by name."""
    requests = [piece.progress.request for piece in pieces]
    one = torch.ones((), device=device)
    alpha = torch.stack([one if r is None or r.alpha is None else r.alpha for r in requests])
    counts = torch.tensor([piece.end - piece.begin for piece in pieces])
    owner = torch.arange(len(pieces)).repeat_interleave(counts)
    steered = torch.from_numpy(np.concatenate([piece.steered for piece in pieces]))
    alpha = alpha[owner.to(device, non_blocking=True)]

    def of_rows(chosen: Tensor) -> Tensor:
        return torch.where(chosen.to(device, non_blocking=True), alpha, one)

    named = {layer for request in requests for layer in _layers(request) or ()}
    everywhere = torch.tensor([_layers(request) is None for request in requests])
    alphas: dict[int | None, Tensor] = {None: of_rows(steered & everywhere[owner])}
    for layer in named:
        here = torch.tensor([(layers := _layers(r)) is None or layer in layers for r in requests])
        alphas[layer] = of_rows(steered & here[owner])
    return alphas


def _layers(request: SteeredRequest | None) -> tuple[int, ...] | None:
    return None if request is None else request.config.layers


def _to(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
