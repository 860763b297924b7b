"""The steered decode over a dense cache, the special case of one block per request."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_no_gradient, check_shape, require
from .launch import steered_paged_decode

__all__ = ["steered_decode"]


def steered_decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    row_alpha: Tensor,
    image_columns: Tensor | None = None,
    image_spans: Tensor | None = None,
    heads: Tensor | None = None,
    first_columns: Tensor | None = None,
    visible: Tensor | None = None,
    window: int | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    return_log_sum_exp: bool = False,
    num_splits: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same over a dense cache: every request's cache is one block; nothing is copied.

    Args:
        query: [B, H, R, D], the last R of the N tokens; with ``visible`` R may exceed N.
        key, value: [B, G, N, D], any strides.
        row_alpha: float32 [B, R].
        visible: bool [B, R, N].
        The others: as in :func:`steered_paged_decode`.

    Returns:
        Output [B, H, R, D], whose transposition to [B, R, H, D] is contiguous; with
        ``return_log_sum_exp`` also float32 [B, H, R].

    Raises:
        ValueError: a shape, dtype, device or option does not fit, or a gradient is asked for.
    """
    check_no_gradient("steered_decode", query=query, key=key, value=value, row_alpha=row_alpha)
    check_shape("query", query, ("B", "H", "R", "D"))
    batch, num_heads, rows, head_size = query.shape
    check_shape("key", key, (batch, "G", "N", head_size))
    check_shape("value", value, tuple(key.shape))
    check_shape("row_alpha", row_alpha, (batch, rows))
    columns = key.shape[2]
    if visible is not None:
        check_shape("visible", visible, (batch, rows, columns))
        visible = visible.reshape(batch * rows, columns)
    else:
        require(
            rows <= columns,
            f"query must hold the last of the {columns} tokens of key, got {rows} rows",
        )
    if image_columns is not None:
        check_shape("image_columns", image_columns, (batch, columns))
    device = query.device
    result = steered_paged_decode(
        query.transpose(1, 2).reshape(batch * rows, num_heads, head_size),
        key.transpose(1, 2),
        value.transpose(1, 2),
        block_table=torch.arange(batch, dtype=torch.int32, device=device)[:, None],
        sequence_lengths=torch.full((batch,), columns, dtype=torch.int32, device=device),
        row_alpha=row_alpha.reshape(-1),
        image_columns=image_columns,
        image_spans=image_spans,
        heads=heads,
        first_columns=first_columns,
        visible=visible,
        window=window,
        scaling=scaling,
        softcap=softcap,
        return_log_sum_exp=return_log_sum_exp,
        num_splits=num_splits,
    )
    output, log_sum_exp = result if isinstance(result, tuple) else (result, None)
    output = output.view(batch, rows, num_heads, head_size).transpose(1, 2)
    if log_sum_exp is None:
        return output
    return output, log_sum_exp.view(batch, rows, num_heads).transpose(1, 2)
