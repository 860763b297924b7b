"""Steered attention: the definition, an independent oracle, and the torch implementation.

``s_ij = q_i . k_j * scaling`` are the raw logits after rotary embedding (after the soft-cap, where
a model has one). Steering replaces ``s_ij`` by ``c_ij * s_ij``, where ``c_ij`` is the row's
coefficient if column j is a steered image token and 1 otherwise; mask and float32 softmax follow as
usual (AdaptVis paper, section 4).

Shapes: B batch, H query heads, G key-value heads (G divides H), R query rows, S key columns, D head
size. Masks are boolean (True: may attend) or additive floats, broadcastable to [B, H, R, S].
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merged_attention", "reference_attention", "steered_attention"]


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    image_columns: Tensor,
    row_alpha: Tensor,
    mask: Tensor | None,
    scaling: float,
    heads: Tensor | None = None,
    softcap: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The definition. Everything else in this project is an optimisation of these lines.

    Args:
        query: [B, H, R, D]. key, value: [B, G, S, D].
        image_columns: bool [B, S], True for the image tokens that are steered.
        row_alpha: [B, R], the coefficient of each query row; 1 where a row is not steered.
        heads: bool [H], True for the heads that are steered; None steers all.

    Returns:
        [B, H, R, D] in ``dtype``.
    """
    group = query.shape[1] // key.shape[1]
    key = key.to(dtype).repeat_interleave(group, dim=1)
    value = value.to(dtype).repeat_interleave(group, dim=1)
    logits = query.to(dtype) @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    steered = image_columns[:, None, None, :].expand_as(logits)
    if heads is not None:
        steered = steered & heads[None, :, None, None]
    logits = torch.where(steered, logits * row_alpha.to(dtype)[:, None, :, None], logits)
    if mask is not None:
        logits = (
            logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
        )
    return torch.softmax(logits, dim=-1) @ value


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    image_columns: Tensor,
    row_alpha: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> Tensor:
    """The same by another road: two ordinary attentions merged by their log-sum-exp.

    One runs over the image columns with query ``alpha * q``, one over the rest with ``q``; no logit
    is ever multiplied. Serves as an oracle for kernels. Rows must see at least one column; boolean
    masks only; no soft-cap.
    """
    group = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(group, dim=1)
    value = value.repeat_interleave(group, dim=1)

    def partial(rows: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        logits = (rows @ key.transpose(-1, -2) * scaling).masked_fill(~visible, float("-inf"))
        log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
        weights = torch.exp(logits - torch.nan_to_num(log_sum, neginf=0.0))
        return weights @ value, log_sum

    image = image_columns[:, None, None, :]
    visible = torch.ones_like(image) if mask is None else mask
    image_output, image_log_sum = partial(query * row_alpha[:, None, :, None], visible & image)
    other_output, other_log_sum = partial(query, visible & ~image)
    share = torch.sigmoid(image_log_sum - other_log_sum)
    return share * image_output + (1 - share) * other_output


def steered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    image_columns: Tensor,
    row_alpha: Tensor,
    mask: Tensor | None,
    scaling: float,
    heads: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Steered attention for a few query rows; arguments as in :func:`reference_attention`.

    Never repeats keys or values for grouped-query heads. Logits and softmax are float32 whatever
    the input type.

    Returns:
        Output [B, H, R, D] in the query's dtype, and weights [B, H, R, S] in float32.
    """
    batch, num_heads, rows, size = query.shape
    groups, columns = key.shape[1], key.shape[2]
    folded = query.float().reshape(batch, groups, num_heads // groups * rows, size)
    logits = torch.matmul(folded, key.float().transpose(-1, -2)).mul_(scaling)
    logits = logits.view(batch, num_heads, rows, columns)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)

    steered = image_columns[:, None, None, :]
    if heads is not None:
        steered = steered & heads[None, :, None, None]
    factor = torch.where(steered, row_alpha.float()[:, None, :, None], 1.0)
    logits = logits * factor

    if mask is not None:
        if mask.dtype == torch.bool:
            # Finite, so that a row of padding that sees nothing stays a number.
            logits = logits.masked_fill(~mask, torch.finfo(torch.float32).min)
        else:
            logits = logits + mask.float()
    weights = torch.softmax(logits, dim=-1)
    output = torch.matmul(weights.view(batch, groups, -1, columns), value.float())
    return output.view(batch, num_heads, rows, -1).to(query.dtype), weights
