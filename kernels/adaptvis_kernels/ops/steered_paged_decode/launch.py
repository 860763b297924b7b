"""Checks, strides, grid and configuration of the steered decode."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ...checks import (
    FLOAT_TYPES,
    check_devices,
    check_dtype,
    check_finite,
    check_no_gradient,
    check_positive,
    check_shape,
    require,
)
from ...columns import check_image_positions
from ...configs import configuration
from ...launching import architecture_of, launch, multiprocessors_of
from .kernel import merge_splits_kernel, steered_paged_decode_kernel

__all__ = ["steered_paged_decode"]

_LARGEST_HEAD = 256
_COLUMNS_PER_SPLIT = 256
_MOST_SPLITS = 64


def steered_paged_decode(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    block_table: Tensor,
    sequence_lengths: Tensor,
    row_alpha: Tensor,
    row_starts: Tensor | None = None,
    max_rows: int | None = None,
    max_length: int | None = None,
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
    """Steered attention of the last rows of each request over a paged cache.

    Logits are ``softcap(scaling * q.k)``, multiplied by the row's alpha at image columns, then
    masked: a row sees the columns up to its own position. Keys and values of the rows themselves
    must already be in the cache. The position of the last row of a request is its length minus 1.

    Args:
        query: [T, H, D], the rows of all requests one after another.
        key_cache, value_cache: [blocks, block_size, G, D], any strides, those of the head
            dimension included; query head h reads key/value head ``h // (H / G)``.
        block_table: int32 [B, max_blocks], the blocks of each request in order.
        sequence_lengths: int32 [B], tokens in the cache, the rows included.
        row_alpha: float32 [T]; 1 leaves a row as it is.
        row_starts: int32 [B + 1], where the rows of each request start; outputs of rows behind the
            last are undefined. None: every request has T / B rows.
        max_rows: the most rows of any request, needed with ``row_starts`` (the host does not read
            device memory).
        max_length: an upper bound of the lengths; None takes what the block table can hold. Decides
            over how many slices long contexts are split, and widths are checked against it.
        image_columns: bool [B, N]; columns from N on are no image tokens; or
        image_spans: int32 [B, S, 2], half-open spans of columns, empty where start >= end. One of
            the two; neither steers nothing.
        heads: bool [H], the steered query heads; None is all.
        first_columns: int32 [B]; columns before it are left padding that no row sees.
        visible: bool [T, N], an explicit mask in place of causality and window; columns from N on
            are not visible.
        window: a row sees this many columns up to its own; None is all.
        scaling: of the logits; None is D ** -0.5.
        softcap: ``softcap * tanh(logits / softcap)`` before alpha.
        return_log_sum_exp: also return the log-sum-exp of the steered logits.
        num_splits: slices per request; None chooses from the shapes.

    Returns:
        Output [T, H, D] in the query's dtype, contiguous; with ``return_log_sum_exp`` also float32
        [T, H] (natural logarithm). A row that sees nothing gives 0 and -inf.

    Raises:
        ValueError: a shape, dtype, device or option does not fit, or a gradient is asked for.
    """
    check_no_gradient(
        "steered_paged_decode",
        query=query,
        key_cache=key_cache,
        value_cache=value_cache,
        row_alpha=row_alpha,
    )
    check_shape("query", query, ("T", "H", "D"))
    total_rows, num_heads, head_size = query.shape
    require(
        1 <= head_size <= _LARGEST_HEAD,
        f"head size must be 1 to {_LARGEST_HEAD}, got {head_size}",
    )
    check_shape("key_cache", key_cache, ("blocks", "block_size", "G", head_size))
    check_shape("value_cache", value_cache, tuple(key_cache.shape))
    block_size, groups = key_cache.shape[1:3]
    require(
        groups > 0 and num_heads % groups == 0,
        f"query heads must be a multiple of the {groups} key/value heads, got {num_heads}",
    )
    check_dtype("query", query, FLOAT_TYPES)
    check_dtype("key_cache", key_cache, query.dtype)
    check_dtype("value_cache", value_cache, query.dtype)
    check_shape("block_table", block_table, ("B", "max_blocks"))
    batch, max_blocks = block_table.shape
    check_shape("sequence_lengths", sequence_lengths, (batch,))
    check_shape("row_alpha", row_alpha, (total_rows,))
    check_dtype("block_table", block_table, torch.int32)
    check_dtype("sequence_lengths", sequence_lengths, torch.int32)
    check_dtype("row_alpha", row_alpha, torch.float32)
    check_image_positions(image_columns, image_spans, batch, "N")
    if heads is not None:
        check_shape("heads", heads, (num_heads,))
        check_dtype("heads", heads, torch.bool)
    if first_columns is not None:
        check_shape("first_columns", first_columns, (batch,))
        check_dtype("first_columns", first_columns, torch.int32)
    if visible is not None:
        check_shape("visible", visible, (total_rows, "N"))
        check_dtype("visible", visible, torch.bool)
        require(window is None, "visible replaces causality and window: give one of them, got both")
    require(window is None or window > 0, f"window must be positive, got {window}")
    if softcap is not None:
        check_positive("softcap", softcap)
    scaling = head_size**-0.5 if scaling is None else scaling
    check_finite("scaling", scaling)
    for name, mask in (("image_columns", image_columns), ("visible", visible)):
        require(
            max_length is None or mask is None or max_length <= mask.shape[1],
            f"{name} must have at least max_length = {max_length} columns, got "
            f"{0 if mask is None else mask.shape[1]}",
        )
    require(num_splits is None or num_splits > 0, f"num_splits must be positive, got {num_splits}")
    if row_starts is not None:
        check_shape("row_starts", row_starts, (batch + 1,))
        check_dtype("row_starts", row_starts, torch.int32)
        require(max_rows is not None and max_rows > 0, "row_starts needs max_rows, a positive int")
        rows = max_rows or 1
    else:
        require(
            total_rows % batch == 0 if batch > 0 else total_rows == 0,
            f"query must hold equally many rows for each of {batch} requests, got {total_rows} "
            "rows; give row_starts for unequal ones",
        )
        rows = total_rows // max(batch, 1)
    device = check_devices(
        query=query,
        key_cache=key_cache,
        value_cache=value_cache,
        block_table=block_table,
        sequence_lengths=sequence_lengths,
        row_alpha=row_alpha,
        row_starts=row_starts,
        image_columns=image_columns,
        image_spans=image_spans,
        heads=heads,
        first_columns=first_columns,
        visible=visible,
    )

    # The kernel reads these with stride 1 along their last dimension.
    block_table = _dense_rows(block_table)
    image_columns = None if image_columns is None else _dense_rows(image_columns)
    span_count = 0 if image_spans is None else image_spans.shape[1]
    group = num_heads // groups
    block_d = max(16, triton.next_power_of_2(head_size))
    bits = query.element_size() * 8
    # Float32 products are slow whatever the tile; in 16 bits tails take larger ones.
    kind = "" if bits == 32 else "/short" if rows * group <= 16 else "/tail"
    # The mask's tile takes registers, too.
    masked = "/masked" if visible is not None else ""
    key = f"{max(64, block_d)}/{bits}{kind}{masked}"
    config = configuration("steered_paged_decode", key, architecture_of(device))
    row_tiles = triton.cdiv(rows * group, config["BLOCK_M"])
    if num_splits is None:
        longest = max_blocks * block_size if max_length is None else max_length
        programs = batch * groups * row_tiles
        num_splits = _choose_splits(programs, longest, multiprocessors_of(device))

    output = torch.empty(total_rows, num_heads, head_size, dtype=query.dtype, device=device)
    log_sum_exp = (
        torch.empty(total_rows, num_heads, device=device, dtype=torch.float32)
        if return_log_sum_exp
        else None
    )
    partial_output, partial_log_sum = output, log_sum_exp
    if num_splits > 1:
        shape = (num_splits, total_rows, num_heads)
        partial_output = torch.empty(*shape, head_size, dtype=torch.float32, device=device)
        partial_log_sum = torch.empty(shape, dtype=torch.float32, device=device)

    launch(
        steered_paged_decode_kernel,
        (row_tiles * num_splits, groups, batch),
        device=device,
        num_warps=config["num_warps"],
        # The load of the block number takes stages of its own.
        num_stages=config["num_stages" if max_blocks == 1 else "paged_num_stages"],
        query=query,
        key_cache=key_cache,
        value_cache=value_cache,
        block_table=block_table,
        sequence_lengths=sequence_lengths.contiguous(),
        row_starts=None if row_starts is None else row_starts.contiguous(),
        row_alpha=row_alpha.contiguous(),
        image_columns=image_columns,
        image_spans=None if image_spans is None else image_spans.contiguous(),
        heads=None if heads is None else heads.contiguous(),
        first_columns=None if first_columns is None else first_columns.contiguous(),
        visible=visible,
        output=partial_output,
        log_sum_exp=partial_log_sum,
        stride_query_row=query.stride(0),
        stride_query_head=query.stride(1),
        stride_query_dim=query.stride(2),
        stride_key_block=key_cache.stride(0),
        stride_key_token=key_cache.stride(1),
        stride_key_head=key_cache.stride(2),
        stride_key_dim=key_cache.stride(3),
        stride_value_block=value_cache.stride(0),
        stride_value_token=value_cache.stride(1),
        stride_value_head=value_cache.stride(2),
        stride_value_dim=value_cache.stride(3),
        stride_table_request=block_table.stride(0),
        stride_columns_request=0 if image_columns is None else image_columns.stride(0),
        stride_visible_row=0 if visible is None else visible.stride(0),
        stride_visible_column=0 if visible is None else visible.stride(1),
        image_width=0 if image_columns is None else image_columns.shape[1],
        visible_width=0 if visible is None else visible.shape[1],
        total_rows=total_rows,
        rows_per_request=rows,
        block_size=block_size,
        num_splits=num_splits,
        span_count=span_count,
        scaling=float(scaling),
        softcap=1.0 if softcap is None else float(softcap),
        window=0 if window is None else window,
        NUM_HEADS=num_heads,
        GROUP=group,
        HEAD_SIZE=head_size,
        BLOCK_M=config["BLOCK_M"],
        BLOCK_N=config["BLOCK_N"],
        BLOCK_D=block_d,
        BLOCK_S=triton.next_power_of_2(max(span_count, 1)),
        ONE_BLOCK=max_blocks == 1,
        TILE_IN_BLOCK=block_size % config["BLOCK_N"] == 0,
        SINGLE_ROW=row_starts is None and rows == 1,
        HAS_ROW_STARTS=row_starts is not None,
        HAS_COLUMNS=image_columns is not None,
        HAS_SPANS=image_spans is not None,
        HAS_HEADS=heads is not None,
        HAS_FIRST_COLUMNS=first_columns is not None,
        HAS_VISIBLE=visible is not None,
        HAS_SOFTCAP=softcap is not None,
        HAS_WINDOW=window is not None,
        IS_SPLIT=num_splits > 1,
        WANTS_LOG_SUM_EXP=return_log_sum_exp,
    )
    if num_splits > 1:
        launch(
            merge_splits_kernel,
            (total_rows * num_heads,),
            device=device,
            num_warps=2,
            num_stages=2,
            partial_output=partial_output,
            partial_log_sum=partial_log_sum,
            output=output,
            log_sum_exp=log_sum_exp,
            total_rows=total_rows,
            num_splits=num_splits,
            NUM_HEADS=num_heads,
            HEAD_SIZE=head_size,
            BLOCK_D=block_d,
            WANTS_LOG_SUM_EXP=return_log_sum_exp,
        )
    return output if log_sum_exp is None else (output, log_sum_exp)


def _dense_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _choose_splits(programs: int, longest: int, multiprocessors: int) -> int:
    """Enough slices to fill the device twice, each long enough to be worth its merge."""
    wanted = math.ceil(2 * multiprocessors / max(programs, 1))
    return max(1, min(wanted, longest // _COLUMNS_PER_SPLIT, _MOST_SPLITS))
