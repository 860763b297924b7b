"""Steered attention over a paged key-value cache: many requests, a few query rows of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptvis.steering.backend import kernels_for

__all__ = ["PagedRows", "steered_paged_attention"]

# Keys and values gathered at a time, in elements: what stays near the caches of a CPU.
_ELEMENTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class PagedRows:
    """The rows of B requests, one after another: T in all. The last row of each is its last token.

    block_table: int32 [B, blocks]. sequence_lengths, row_starts: int32 [B] and [B + 1].
    lengths, counts: the sequence lengths and the rows of each request, on the host.
    image_columns: bool [B, N], N at least the longest length. heads: bool [H]; None is all.
    plans: what the layers of one pass share; filled by the first of them.
    """

    block_table: Tensor
    sequence_lengths: Tensor
    row_starts: Tensor
    lengths: Sequence[int]
    counts: Sequence[int]
    image_columns: Tensor
    heads: Tensor | None = None
    plans: dict[tuple[int, int | None], list[_Plan]] = field(
        default_factory=dict, repr=False, compare=False
    )


@dataclass(frozen=True)
class _Plan:
    """Neighbouring requests that are attended together: b of them, at most R rows of each.

    They read n blocks of ``used`` slots each: N = n * used columns.

    rows: [b, R] of the pass; real: bool [b, R], None if all are. table: int64 [b * n].
    steered, hidden: bool, broadcastable to [b, H, R, N]. stale: bool [b, n - first_stale, used],
        slots of the last blocks that nobody sees.
    """

    rows: Tensor
    real: Tensor | None
    table: Tensor
    blocks: int
    used: int
    steered: Tensor
    hidden: Tensor
    first_stale: tuple[int, int]
    stale: Tensor


def steered_paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    rows: PagedRows,
    row_alpha: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The definition (:func:`adaptvis.steering.attention.reference_attention`) over a paged cache.

    Args:
        query: [T, H, D]. key_cache, value_cache: [blocks, block_size, G, D] with any strides.
        row_alpha: float32 [T].
        window: a row sees this many tokens up to its own; None is all.

    Returns:
        [T, H, D] in the query's dtype.
    """
    kernels = kernels_for(query)
    if kernels is not None and key_cache.dtype == query.dtype:
        output: Tensor = kernels.steered_paged_decode(
            query,
            key_cache,
            value_cache,
            block_table=rows.block_table,
            sequence_lengths=rows.sequence_lengths,
            row_alpha=row_alpha,
            row_starts=rows.row_starts,
            max_rows=max(rows.counts),
            max_length=max(rows.lengths),
            image_columns=rows.image_columns,
            heads=rows.heads,
            window=window,
            scaling=scaling,
            softcap=softcap,
        )
        return output
    _, block_size, groups, size = key_cache.shape
    known = (block_size, window)
    if known not in rows.plans:
        rows.plans[known] = list(_plans(rows, block_size, groups * size, window, query.device))
    output = torch.empty_like(query)
    heads = query.shape[1]
    for plan in rows.plans[known]:
        b, r = plan.rows.shape
        queries = query[plan.rows].float().mul_(scaling)
        # The heads of a group and their rows are the rows of one product: [b, 1, G, H / G * R, D].
        queries = queries.view(b, r, groups, -1, size).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(b, 1, groups, -1, size)
        keys = _gather(key_cache, plan).float()
        logits = torch.matmul(queries, keys.permute(0, 1, 3, 4, 2))
        logits = logits.permute(0, 2, 3, 1, 4).reshape(b, heads, r, -1)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        alpha = row_alpha[plan.rows][:, None, :, None]
        logits = logits * torch.where(plan.steered, alpha, 1.0)
        # Finite, so that a row of padding that sees nothing stays a number.
        logits.masked_fill_(plan.hidden, torch.finfo(torch.float32).min)
        weights = torch.softmax(logits, dim=-1).view(b, groups, -1, plan.blocks, plan.used)
        values = _gather(value_cache, plan).float()
        # Slots that nobody sees may hold anything, and 0 * NaN is NaN.
        block, slot = plan.first_stale
        values[:, block:, slot:].masked_fill_(plan.stale[..., None, None], 0)
        attended = torch.matmul(weights.permute(0, 3, 1, 2, 4), values.transpose(2, 3)).sum(dim=1)
        attended = attended.view(b, heads, r, size).transpose(1, 2).to(query.dtype)
        if plan.real is None:
            output[plan.rows.flatten()] = attended.flatten(0, 1)
        else:
            output[plan.rows[plan.real]] = attended[plan.real]
    return output


def _gather(cache: Tensor, plan: _Plan) -> Tensor:
    """Keys or values of a plan's requests: [b, n, used, G, D], in memory as the cache has them."""
    cache = cache[:, : plan.used]
    order = sorted((1, 2, 3), key=cache.stride, reverse=True)
    copied = cache.permute(0, *order).index_select(0, plan.table)
    inverse = [0, *(1 + order.index(dimension) for dimension in (1, 2, 3))]
    return copied.permute(inverse).unflatten(0, (-1, plan.blocks))


def _plans(
    rows: PagedRows, block_size: int, per_token: int, window: int | None, device: torch.device
) -> Iterator[_Plan]:
    for batch in _batches(rows, per_token):
        longest, shortest = max(rows.lengths[batch]), min(rows.lengths[batch])
        blocks = -(-longest // block_size)
        used = longest if blocks == 1 else block_size
        indices, seen = _rows_of(rows, batch, blocks * used, window, device)
        real = indices >= 0
        columns = rows.image_columns[batch, :longest]
        columns = torch.nn.functional.pad(columns, (0, blocks * used - columns.shape[1]))
        steered = columns[:, None, None, :]
        if rows.heads is not None:
            steered = steered & rows.heads[None, :, None, None]
        first = 0
        if window is None:
            first = min(shortest, blocks * used - 1)
        first_stale = (first // used, first % used if blocks == 1 else 0)
        stale = ~seen.any(dim=1).view(-1, blocks, used)[:, first_stale[0] :, first_stale[1] :]
        all_real = min(rows.counts[batch]) == max(rows.counts[batch])
        yield _Plan(
            indices.clamp(min=0),
            None if all_real else real,
            rows.block_table[batch, :blocks].flatten().long(),
            blocks,
            used,
            steered,
            ~seen[:, None],
            first_stale,
            stale,
        )


def _batches(rows: PagedRows, per_token: int) -> Iterator[slice]:
    """Neighbouring requests whose gathered keys fit into a batch."""
    start, longest = 0, 0
    for index, length in enumerate(rows.lengths):
        longest = max(longest, length)
        if index > start and (index + 1 - start) * longest * per_token > _ELEMENTS_AT_ONCE:
            yield slice(start, index)
            start, longest = index, length
    yield slice(start, len(rows.lengths))


def _rows_of(
    rows: PagedRows, batch: slice, columns: int, window: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row indices [b, R], -1 where a request has fewer, and what each row sees [b, R, N]."""
    counts = torch.tensor(rows.counts[batch], device=device)
    lengths = torch.tensor(rows.lengths[batch], device=device)
    offset = torch.arange(max(rows.counts[batch]), device=device)
    first = rows.row_starts[: len(rows.counts)][batch].to(torch.int64)
    indices = torch.where(offset < counts[:, None], first[:, None] + offset, -1)
    position = (lengths - counts)[:, None] + offset
    column = torch.arange(columns, device=device)
    seen = (column <= position[..., None]) & (indices >= 0)[..., None]
    if window is not None:
        seen &= column > position[..., None] - window
    return indices, seen
