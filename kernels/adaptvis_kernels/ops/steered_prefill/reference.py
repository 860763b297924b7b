"""The definition in plain PyTorch: float32, or float64 where the inputs are float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...columns import columns_of_spans

__all__ = ["steered_prefill_reference", "steered_prefill_varlen_reference", "visible_columns"]


def visible_columns(
    batch: int,
    rows: int,
    columns: int,
    *,
    first_columns: Tensor | None = None,
    bidirectional_spans: Tensor | None = None,
    window: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Which columns each row sees without an explicit mask: bool [B, R, N]."""
    column = torch.arange(columns, device=device)
    position = column.new_tensor(range(columns - rows, columns))[:, None]
    seen = column <= position
    if window is not None:
        seen = seen & (position - column < window)
    seen = seen.expand(batch, rows, columns)
    if bidirectional_spans is not None:
        start, end = (
            bidirectional_spans[..., 0, None, None],
            bidirectional_spans[..., 1, None, None],
        )
        rows_inside = (position >= start) & (position < end)  # [B, P, R, 1]
        columns_inside = (column >= start) & (column < end)  # [B, P, 1, N]
        seen = seen | (rows_inside & columns_inside).any(1)
    if first_columns is not None:
        seen = seen & (column >= first_columns[:, None, None])
    return seen


def steered_prefill_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    row_alpha: Tensor,
    image_columns: Tensor | None = None,
    image_spans: Tensor | None = None,
    first_columns: Tensor | None = None,
    bidirectional_spans: Tensor | None = None,
    visible: Tensor | None = None,
    window: int | None = None,
    heads: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, H, R, D] and log-sum-exp [B, H, R]; arguments as in ``steered_prefill``."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    batch, num_heads, rows, size = query.shape
    columns, group = key.shape[2], num_heads // key.shape[1]
    if visible is None:
        visible = visible_columns(
            batch,
            rows,
            columns,
            first_columns=first_columns,
            bidirectional_spans=bidirectional_spans,
            window=window,
            device=query.device,
        )
    visible = visible.reshape(batch, 1, rows, columns)
    if image_spans is not None:
        image_columns = columns_of_spans(image_spans, columns)

    # What no row sees may be anything, NaN too.
    stale = ~visible.any(2)[..., None]
    key = key.to(dtype).masked_fill(stale, 0.0).repeat_interleave(group, 1)
    value = value.to(dtype).masked_fill(stale, 0.0).repeat_interleave(group, 1)
    logits = query.to(dtype) @ key.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if image_columns is not None:
        steered = image_columns[:, None, None, :].expand_as(logits)
        if heads is not None:
            steered = steered & heads[:, None, None]
        logits = torch.where(steered, logits * row_alpha.to(dtype)[:, None, :, None], logits)
    logits = logits.masked_fill(~visible, float("-inf"))
    log_sum_exp = logits.logsumexp(-1)
    weights = torch.softmax(logits, -1).masked_fill(~visible.any(-1, keepdim=True), 0.0)
    return weights @ value, log_sum_exp


def steered_prefill_varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_starts: Tensor,
    key_starts: Tensor,
    row_alpha: Tensor,
    image_columns: Tensor | None = None,
    image_spans: Tensor | None = None,
    bidirectional_spans: Tensor | None = None,
    window: int | None = None,
    heads: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and log-sum-exp [H, T]: one request after another."""
    outputs, log_sums = [], []
    for request in range(len(query_starts) - 1):
        rows = slice(int(query_starts[request]), int(query_starts[request + 1]))
        tokens = slice(int(key_starts[request]), int(key_starts[request + 1]))
        one = slice(request, request + 1)
        output, log_sum_exp = steered_prefill_reference(
            query[rows].transpose(0, 1)[None],
            key[tokens].transpose(0, 1)[None],
            value[tokens].transpose(0, 1)[None],
            row_alpha=row_alpha[None, rows],
            image_columns=None if image_columns is None else image_columns[None, tokens],
            image_spans=None if image_spans is None else image_spans[one],
            bidirectional_spans=None if bidirectional_spans is None else bidirectional_spans[one],
            window=window,
            heads=heads,
            scaling=scaling,
            softcap=softcap,
        )
        outputs.append(output[0].transpose(0, 1))
        log_sums.append(log_sum_exp[0])
    return torch.cat(outputs), torch.cat(log_sums, 1)
