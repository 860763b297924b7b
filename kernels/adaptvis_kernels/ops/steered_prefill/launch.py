"""The steered prefill as it is called: dense, or requests of unequal lengths in one row."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_dtype, check_shape, require
from ...columns import check_image_positions
from .grid import MOST_SPANS, Options, launch_prefill

__all__ = ["steered_prefill", "steered_prefill_varlen"]


def steered_prefill(
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
    return_log_sum_exp: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention in which every row has its own coefficient for the image columns; forward only.

    Logits are ``softcap(scaling * q.k)``, multiplied by the row's alpha at image columns, then
    masked. The R rows are the last of the N tokens. A row sees a column that is not padding and
    either lies at most ``window - 1`` before it and not behind it, or in one bidirectional span
    with it.

    Args:
        query: [B, H, R, D], any strides, as of all tensors here; D at most 256.
        key, value: [B, G, N, D]; query head h reads key/value head ``h // (H / G)``.
        row_alpha: float32 [B, R]; 1 leaves a row as it is. Logits times alpha must be finite in
            float32.
        image_columns: bool [B, N]; or
        image_spans: int32 [B, S, 2], half-open spans of columns, empty where start >= end. One of
            the two; neither steers nothing.
        first_columns: int32 [B]; columns before it are left padding that no row sees.
        bidirectional_spans: int32 [B, P, 2], half-open: rows and columns in the same span see
            each other whatever their order.
        visible: bool [B, R, N] or [B, 1, R, N], an explicit mask in place of causality, window,
            padding and bidirectional spans.
        window: a row sees this many columns up to its own; None is all.
        heads: bool [H], the steered query heads; None is all.
        scaling: of the logits, positive; None is D ** -0.5.
        softcap: ``softcap * tanh(logits / softcap)`` before alpha.
        return_log_sum_exp: also return the log-sum-exp of the steered logits.

    Returns:
        Output [B, H, R, D] in the query's dtype, whose transposition to [B, R, H, D] is contiguous;
        with ``return_log_sum_exp`` also float32 [B, H, R] (natural logarithm). A row that sees
        nothing gives 0 and -inf.

    Raises:
        ValueError: a shape, dtype, device or option does not fit, or a gradient is asked for.
    """
    check_shape("query", query, ("B", "H", "R", "D"))
    batch, num_heads, rows, head_size = query.shape
    check_shape("key", key, (batch, "G", "N", head_size))
    groups, columns = key.shape[1:3]
    check_shape("value", value, (batch, groups, columns, head_size))
    check_shape("row_alpha", row_alpha, (batch, rows))
    check_image_positions(image_columns, image_spans, batch, columns)
    if first_columns is not None:
        check_shape("first_columns", first_columns, (batch,))
        check_dtype("first_columns", first_columns, torch.int32)
    if visible is not None:
        for name, other in (
            ("window", window),
            ("first_columns", first_columns),
            ("bidirectional_spans", bidirectional_spans),
        ):
            require(other is None, f"visible replaces {name}: give one of them, got both")
        check_dtype("visible", visible, torch.bool)
        if visible.dim() == 4:
            check_shape("visible", visible, (batch, 1, rows, columns))
            visible = visible[:, 0]
        check_shape("visible", visible, (batch, rows, columns))
    else:
        require(
            rows <= columns,
            f"query must hold the last of the {columns} tokens of key, got {rows} rows",
        )
    output = query.new_empty(batch, rows, num_heads, head_size).transpose(1, 2)
    log_sum_exp = (
        query.new_empty(batch, num_heads, rows, dtype=torch.float32) if return_log_sum_exp else None
    )
    launch_prefill(
        query,
        key,
        value,
        output,
        log_sum_exp,
        Options(
            row_alpha=row_alpha,
            image_columns=image_columns,
            image_spans=image_spans,
            bidirectional_spans=bidirectional_spans,
            window=window,
            heads=heads,
            scaling=scaling,
            softcap=softcap,
            first_columns=first_columns,
            visible=visible,
        ),
        max_rows=rows,
    )
    return output if log_sum_exp is None else (output, log_sum_exp)


def steered_prefill_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_starts: Tensor,
    key_starts: Tensor,
    max_rows: int,
    row_alpha: Tensor,
    image_columns: Tensor | None = None,
    image_spans: Tensor | None = None,
    bidirectional_spans: Tensor | None = None,
    window: int | None = None,
    heads: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    return_log_sum_exp: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same for requests of unequal lengths that lie one after another.

    Args:
        query: [T, H, D], the rows of all requests.
        key, value: [S, G, D], the tokens of all requests.
        query_starts, key_starts: int32 [B + 1]: request b has rows ``query_starts[b]`` up to
            ``query_starts[b + 1]`` and tokens likewise; its rows are the last of its tokens. Rows
            of no request are not written.
        max_rows: the most rows of any request (the host does not read device memory); rows beyond
            it are not written.
        row_alpha: float32 [T].
        image_columns: bool [S]; or
        image_spans: int32 [B, P, 2], counted from the request's own first token, as are
            ``bidirectional_spans``.
        The others: as in :func:`steered_prefill`.

    Returns:
        Output [T, H, D] in the query's dtype, contiguous; with ``return_log_sum_exp`` also float32
        [H, T] (natural logarithm).

    Raises:
        ValueError: a shape, dtype, device or option does not fit, or a gradient is asked for.
    """
    check_shape("query", query, ("T", "H", "D"))
    total_rows, num_heads, head_size = query.shape
    check_shape("key", key, ("S", "G", head_size))
    total_columns, groups = key.shape[:2]
    check_shape("value", value, (total_columns, groups, head_size))
    check_shape("query_starts", query_starts, ("B + 1",))
    check_dtype("query_starts", query_starts, torch.int32)
    require(len(query_starts) > 0, "query_starts must have B + 1 elements, got none")
    batch = len(query_starts) - 1
    check_shape("key_starts", key_starts, (batch + 1,))
    check_dtype("key_starts", key_starts, torch.int32)
    require(max_rows >= 0, f"max_rows must not be negative, got {max_rows}")
    check_shape("row_alpha", row_alpha, (total_rows,))
    check_image_positions(None, image_spans, batch, "S")
    if image_columns is not None:
        require(
            image_spans is None,
            "image_columns and image_spans say the same thing: give one of them, got both",
        )
        check_shape("image_columns", image_columns, (total_columns,))
        check_dtype("image_columns", image_columns, torch.bool)
    if image_spans is not None:
        require(
            image_spans.shape[1] <= MOST_SPANS,
            f"image_spans must have at most {MOST_SPANS} spans per request, got "
            f"{image_spans.shape[1]}; give image_columns instead",
        )
    output = query.new_empty(total_rows, num_heads, head_size)
    log_sum_exp = (
        query.new_empty(num_heads, total_rows, dtype=torch.float32) if return_log_sum_exp else None
    )
    launch_prefill(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        output.transpose(0, 1)[None],
        None if log_sum_exp is None else log_sum_exp[None],
        Options(
            row_alpha=row_alpha[None],
            image_columns=None if image_columns is None else image_columns[None],
            image_spans=image_spans,
            bidirectional_spans=bidirectional_spans,
            window=window,
            heads=heads,
            scaling=scaling,
            softcap=softcap,
            query_starts=query_starts,
            key_starts=key_starts,
        ),
        max_rows=max_rows,
    )
    return output if log_sum_exp is None else (output, log_sum_exp)
