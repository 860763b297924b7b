"""The definition of image attention, with the whole matrix of attention weights in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ImageAttention", "image_attention_reference", "visible_columns"]


class ImageAttention(NamedTuple):
    """Attention of chosen rows on M image tokens.

    weights: float32 [B, H, R, M], softmax over all visible columns, at the image tokens; 0 where a
        position is padding and where the row may not see it.
    share: float32 [B, H, R], the sum of these weights.
    entropy: float32 [B, H, R] in [0, 1]: entropy of the weights divided by their sum, over the
        logarithm of the number of image tokens the row sees; 0 where that number is 0 or 1.
    log_sum_exp: float32 [B, H, R] over all visible columns (natural logarithm); -inf where a row
        sees nothing.
    """

    weights: Tensor
    share: Tensor
    entropy: Tensor
    log_sum_exp: Tensor


def visible_columns(
    batch: int,
    rows: int,
    width: int,
    device: torch.device,
    *,
    row_positions: Tensor | None = None,
    first_columns: Tensor | None = None,
    visible: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Which of ``width`` columns each row sees, bool [B, R, width]."""
    if visible is not None:
        return visible.reshape(batch, rows, width)
    column = torch.arange(width, device=device)
    if row_positions is None:
        row_positions = torch.arange(width - rows, width, device=device).expand(batch, rows)
    position = row_positions[:, :, None]
    seen = column <= position
    if first_columns is not None:
        seen = seen & (column >= first_columns[:, None, None])
    if window is not None:
        seen = seen & (column > position - window)
    return seen


def image_attention_reference(
    query: Tensor,
    key: Tensor,
    *,
    image_positions: Tensor,
    row_positions: Tensor | None = None,
    first_columns: Tensor | None = None,
    visible: Tensor | None = None,
    window: int | None = None,
    row_alpha: Tensor | None = None,
    heads: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> ImageAttention:
    """As :func:`image_attention`, on any device; in float64 for float64 inputs, else in float32."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    batch, num_heads, rows, size = query.shape
    width, slot_count = key.shape[2], image_positions.shape[1]
    key = key.to(dtype).repeat_interleave(num_heads // key.shape[1], dim=1)
    logits = query.to(dtype) @ key.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)

    # One column more than there are keys takes what is no position at all.
    is_token = (image_positions >= 0) & (image_positions < width)
    column = torch.where(is_token, image_positions, width).long()
    slots = torch.full((batch, width + 1), -1, device=query.device)
    order = torch.arange(slot_count, device=query.device).expand(batch, slot_count)
    slots.scatter_reduce_(1, column, order, "amax")
    is_token = is_token & (slots.gather(1, column) == order)
    if row_alpha is not None:
        steered = (slots[:, :width] >= 0)[:, None, None, :]
        if heads is not None:
            steered = steered & heads[None, :, None, None]
        logits = torch.where(steered, logits * row_alpha.to(dtype)[:, None, :, None], logits)

    seen = visible_columns(
        batch,
        rows,
        width,
        query.device,
        row_positions=row_positions,
        first_columns=first_columns,
        visible=visible,
        window=window,
    )
    logits = logits.masked_fill(~seen[:, None], float("-inf"))
    log_sum_exp = torch.logsumexp(logits, dim=-1)

    nowhere = logits.new_full((*logits.shape[:-1], 1), float("-inf"))
    column = column[:, None, None, :].expand(*logits.shape[:-1], slot_count)
    image = torch.cat([logits, nowhere], dim=-1).gather(3, column)
    image = image.masked_fill(~is_token[:, None, None, :], float("-inf"))
    weights = torch.exp(image - log_sum_exp[..., None]).masked_fill(image.isneginf(), 0.0)

    log_image = torch.logsumexp(image, dim=-1, keepdim=True)
    surprise = (log_image - image).masked_fill(image.isneginf(), 0.0)
    count = (~image.isneginf()).sum(dim=-1)
    entropy = (torch.exp(-surprise).masked_fill(image.isneginf(), 0.0) * surprise).sum(dim=-1)
    entropy = torch.where(count > 1, entropy / torch.log(count.clamp(min=2).to(dtype)), 0.0)
    return ImageAttention(weights, weights.sum(dim=-1), entropy, log_sum_exp)
