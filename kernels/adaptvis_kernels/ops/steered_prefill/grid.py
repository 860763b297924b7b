"""Checks, strides, grid and configuration that both forms of the steered prefill share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from ...checks import (
    FLOAT_TYPES,
    check_devices,
    check_dtype,
    check_no_gradient,
    check_positive,
    check_shape,
    require,
)
from ...columns import columns_of_spans
from ...configs import configuration
from ...launching import architecture_of, launch
from .kernel import steered_prefill_kernel

__all__ = ["MOST_SPANS", "Options", "launch_prefill"]

# Up to this many spans are compared in registers.
MOST_SPANS = 8
_LARGEST_HEAD = 256
# Up to this many rows, smaller row tiles put more programs on the device.
_FEW_ROWS = 64
# Keys and values of one section of programs; leaves room in an L2 cache of 40 MB or more.
_SECTION_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Options:
    """What both forms take beside query, key and value; a leading dimension is the batch's."""

    row_alpha: Tensor
    image_columns: Tensor | None
    image_spans: Tensor | None
    bidirectional_spans: Tensor | None
    window: int | None
    heads: Tensor | None
    scaling: float | None
    softcap: float | None
    first_columns: Tensor | None = None
    visible: Tensor | None = None
    query_starts: Tensor | None = None
    key_starts: Tensor | None = None


def launch_prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sum_exp: Tensor | None,
    options: Options,
    *,
    max_rows: int,
) -> None:
    """Check what does not depend on the form, and launch.

    Args:
        query, output: [B, H, R, D]. key, value: [B, G, N, D]. log_sum_exp: float32 [B, H, R] or
            None. With ``options.query_starts`` their B is 1, R and N are those of all requests
            together, and max_rows is the most rows of one request.
    """
    _, num_heads, rows, head_size = query.shape
    _, groups, columns, _ = key.shape
    varlen = options.query_starts is not None
    batch = query.shape[0] if options.query_starts is None else len(options.query_starts) - 1
    require(
        1 <= head_size <= _LARGEST_HEAD, f"head size must be 1 to {_LARGEST_HEAD}, got {head_size}"
    )
    require(
        groups > 0 and num_heads % groups == 0,
        f"query heads must be a multiple of the {groups} key/value heads, got {num_heads}",
    )
    device = _check(query, key, value, options, batch)
    if batch == 0 or max_rows == 0 or num_heads == 0:
        return
    if options.image_spans is not None and options.image_spans.shape[1] > MOST_SPANS:
        as_columns = columns_of_spans(options.image_spans, columns)
        options = replace(options, image_spans=None, image_columns=as_columns)

    block_d = max(32, triton.next_power_of_2(head_size))
    bits = query.element_size() * 8
    few = "/few" if bits == 16 and max_rows <= _FEW_ROWS else ""
    # The mask's tile takes registers, too.
    masked = "/masked" if options.visible is not None else ""
    key_of_config = f"{max(64, block_d)}/{bits}{few}{masked}"
    config = configuration("steered_prefill", key_of_config, architecture_of(device))
    row_tiles = triton.cdiv(max_rows, config["BLOCK_M"])
    pairs = batch * num_heads
    columns_of_one = triton.cdiv(columns, batch) if varlen else columns
    bytes_of_one = max(1, 2 * columns_of_one * head_size * query.element_size())
    group = num_heads // groups
    spans = options.image_spans

    launch(
        steered_prefill_kernel,
        (row_tiles * pairs,),
        device=device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        query=query,
        key=key,
        value=value,
        output=output,
        log_sum_exp=log_sum_exp,
        row_alpha=options.row_alpha,
        heads=_bytes(options.heads),
        image_columns=_bytes(options.image_columns),
        image_spans=_packed(spans),
        bidirectional_spans=_packed(options.bidirectional_spans),
        first_columns=_packed(options.first_columns),
        visible=_bytes(options.visible),
        query_starts=_packed(options.query_starts),
        key_starts=_packed(options.key_starts),
        **_strides("q", query, "bhrd", varlen),
        **_strides("k", key, "bgnd", varlen),
        **_strides("v", value, "bgnd", varlen),
        **_strides("o", output, "bhrd", varlen),
        **_strides("l", log_sum_exp, "bh", varlen),
        **_strides("a", options.row_alpha, "br", varlen),
        **_strides("ic", options.image_columns, "bn", varlen),
        **_strides("vis", options.visible, "brn", varlen),
        rows=rows,
        columns=columns,
        row_tiles=row_tiles,
        pairs=pairs,
        pairs_per_section=min(pairs, max(1, _SECTION_BYTES // bytes_of_one) * group),
        image_span_count=0 if spans is None else spans.shape[1],
        bidirectional_span_count=(
            0 if options.bidirectional_spans is None else options.bidirectional_spans.shape[1]
        ),
        window=0 if options.window is None else min(options.window, columns + 1),
        scaling=head_size**-0.5 if options.scaling is None else float(options.scaling),
        softcap=1.0 if options.softcap is None else float(options.softcap),
        NUM_HEADS=num_heads,
        GROUP=group,
        HEAD_SIZE=head_size,
        BLOCK_M=config["BLOCK_M"],
        BLOCK_N=config["BLOCK_N"],
        BLOCK_D=block_d,
        # A power of two, so that few numbers of spans are compiled for.
        IMAGE_SPANS=0 if spans is None else triton.next_power_of_2(max(1, spans.shape[1])),
        WINDOWED=options.window is not None,
        SOFTCAP=options.softcap is not None,
        VARLEN=varlen,
    )


def _check(query: Tensor, key: Tensor, value: Tensor, options: Options, batch: int) -> torch.device:
    check_no_gradient(
        "steered_prefill", query=query, key=key, value=value, row_alpha=options.row_alpha
    )
    check_dtype("query", query, FLOAT_TYPES)
    check_dtype("key", key, query.dtype)
    check_dtype("value", value, query.dtype)
    check_dtype("row_alpha", options.row_alpha, torch.float32)
    if options.bidirectional_spans is not None:
        check_shape("bidirectional_spans", options.bidirectional_spans, (batch, "spans", 2))
        check_dtype("bidirectional_spans", options.bidirectional_spans, torch.int32)
    if options.heads is not None:
        check_shape("heads", options.heads, (query.shape[1],))
        check_dtype("heads", options.heads, torch.bool)
    window = options.window
    require(window is None or window > 0, f"window must be positive, got {window}")
    for name in ("scaling", "softcap"):
        number = getattr(options, name)
        if number is not None:
            check_positive(name, number)
    return check_devices(
        query=query,
        key=key,
        value=value,
        row_alpha=options.row_alpha,
        image_columns=options.image_columns,
        image_spans=options.image_spans,
        bidirectional_spans=options.bidirectional_spans,
        heads=options.heads,
        first_columns=options.first_columns,
        visible=options.visible,
        query_starts=options.query_starts,
        key_starts=options.key_starts,
    )


def _bytes(tensor: Tensor | None) -> Tensor | None:
    """Booleans as bytes, without a copy."""
    return None if tensor is None else tensor.view(torch.uint8)


def _packed(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _strides(prefix: str, tensor: Tensor | None, names: str, varlen: bool) -> dict[str, int]:
    """Strides as kernel arguments; requests of unequal lengths have no stride of their own."""
    return {
        f"stride_{prefix}{name}": (
            0 if tensor is None or (varlen and name == "b") else tensor.stride(index)
        )
        for index, name in enumerate(names)
    }
