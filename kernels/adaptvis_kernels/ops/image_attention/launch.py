"""Checks, strides, grid and configuration of image attention."""

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
from ...configs import configuration
from ...launching import architecture_of, launch, multiprocessors_of
from .finish import image_finish
from .kernel import image_logits, image_slots
from .reference import ImageAttention

__all__ = ["image_attention"]

_INTEGERS = (torch.int32, torch.int64)
_LARGEST_HEAD = 256
_LOG2_E = math.log2(math.e)
_MOST_SPLITS = 64
_SLOTS_PER_PROGRAM = 512


def image_attention(
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
    """Attention of chosen query rows on image tokens; the matrix [H, R, N] never exists.

    Logits are ``softcap(scaling * q.k)``, multiplied by the row's alpha at the image positions,
    then masked: a row at position p sees the columns up to p.

    Args:
        query: [B, H, R, D], the chosen rows; float32, float16 or bfloat16, D from 1 to 256.
        key: [B, G, N, D] of the query's dtype, any strides, those of the head dimension included;
            query head h reads key head ``h // (H / G)``.
        image_positions: int32 or int64 [B, M], the columns of the image tokens in any order, each
            once; what is not in 0..N-1, such as -1, is padding. (Of a position that comes twice the
            last slot counts and the others are padding.)
        row_positions: int32 or int64 [B, R], the token position of each row; a negative one sees
            nothing. None: the rows are the last R of the N tokens.
        first_columns: int32 [B]; columns before it are left padding that no row sees.
        visible: bool [B, R, N] or [B, 1, R, N], an explicit mask in place of ``row_positions``,
            ``first_columns`` and ``window``.
        window: a row sees this many columns up to its own; None is all.
        row_alpha: float32 [B, R], the coefficient of each row on image logits; None is 1. Products
            with logits must stay finite in float32.
        heads: bool [H], the heads to which ``row_alpha`` applies; None is all.
        scaling: of the logits; None is ``D ** -0.5``.
        softcap: ``softcap * tanh(logits / softcap)`` before alpha.

    Returns:
        :class:`ImageAttention`: weights [B, H, R, M], share, entropy and log_sum_exp [B, H, R],
        float32, contiguous. Rows that see no image token give weights, share and entropy 0.

    Raises:
        ValueError: a shape, dtype, device or option does not fit, or a gradient is asked for.
    """
    device = _check(
        query,
        key,
        image_positions,
        row_positions,
        first_columns,
        visible,
        window,
        row_alpha,
        heads,
        scaling,
        softcap,
    )
    batch, num_heads, rows, size = query.shape
    groups, width = key.shape[1:3]
    slot_count = image_positions.shape[1]
    group = num_heads // groups
    if visible is not None:
        # Triton reads bool as a byte anyway; a view keeps any strides.
        visible = (visible[:, 0] if visible.dim() == 4 else visible).view(torch.uint8)
    if heads is not None:
        heads = heads.view(torch.uint8)

    architecture = architecture_of(device)
    block_size = max(32, triton.next_power_of_2(size))
    bits = query.element_size() * 8
    # Few rows fit one small tile; many share each key. Float32 is slow whatever the tile.
    tier = "" if bits == 32 else f"/{next((t for t in (16, 64) if group * rows <= t), 128)}"
    key_of_config = f"{max(64, block_size)}/{bits}{tier}"
    config = configuration("image_attention", key_of_config, architecture)
    finish = configuration("image_attention", "finish", architecture)
    row_tiles = triton.cdiv(group * rows, config["BLOCK_M"])
    programs = row_tiles * groups * batch
    wanted = triton.cdiv(config["PROGRAMS_PER_CORE"] * multiprocessors_of(device), max(programs, 1))
    longest = triton.cdiv(width, config["LEAST_TILES"] * config["BLOCK_N"])
    splits = max(1, min(wanted, longest, _MOST_SPLITS))

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    result = ImageAttention(
        new(batch, num_heads, rows, slot_count), *(new(batch, num_heads, rows) for _ in range(3))
    )
    output_rows = batch * num_heads * rows
    partials = new(6, output_rows, splits)
    slots = torch.full((batch, width), -1, dtype=torch.int32, device=device)
    rows_of = {
        "row_positions": row_positions,
        "first_columns": first_columns,
        "visible": visible,
        "window": 0 if window is None else window,
        "row_count": rows,
        "width": width,
        "slot_count": slot_count,
        "output_rows": output_rows,
        "splits": splits,
        "stride_positions_batch": _stride(row_positions, 0),
        "stride_positions_row": _stride(row_positions, 1),
        "stride_first_batch": _stride(first_columns, 0),
        "stride_visible_batch": _stride(visible, 0),
        "stride_visible_row": _stride(visible, 1),
        "stride_visible_column": _stride(visible, 2),
        "HAS_POSITIONS": row_positions is not None,
        "HAS_FIRST": first_columns is not None,
        "HAS_VISIBLE": visible is not None,
        "HAS_WINDOW": window is not None,
    }

    launch(
        image_slots,
        (triton.cdiv(slot_count, _SLOTS_PER_PROGRAM), batch),
        device=device,
        num_warps=4,
        num_stages=1,
        positions=image_positions,
        slots=slots,
        count=slot_count,
        width=width,
        stride_positions_batch=image_positions.stride(0),
        stride_positions_slot=image_positions.stride(1),
        BLOCK=_SLOTS_PER_PROGRAM,
    )
    scaling = size**-0.5 if scaling is None else float(scaling)
    launch(
        image_logits,
        (programs * splits,),
        device=device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        query=query,
        key=key,
        slots=slots,
        row_alpha=row_alpha,
        heads=heads,
        weights=result.weights,
        partials=partials,
        group_size=group,
        key_heads=groups,
        row_tiles=row_tiles,
        logit_scale=_LOG2_E * (scaling if softcap is None else 2 * scaling / softcap),
        softcap=0.0 if softcap is None else _LOG2_E * softcap,
        stride_query_batch=query.stride(0),
        stride_query_head=query.stride(1),
        stride_query_row=query.stride(2),
        stride_query_size=query.stride(3),
        stride_key_batch=key.stride(0),
        stride_key_head=key.stride(1),
        stride_key_column=key.stride(2),
        stride_key_size=key.stride(3),
        stride_alpha_batch=_stride(row_alpha, 0),
        stride_alpha_row=_stride(row_alpha, 1),
        stride_heads=_stride(heads, 0),
        HEAD_SIZE=size,
        HAS_ALPHA=row_alpha is not None,
        HAS_HEADS=heads is not None,
        HAS_SOFTCAP=softcap is not None,
        BLOCK_M=config["BLOCK_M"],
        BLOCK_N=config["BLOCK_N"],
        BLOCK_D=block_size,
        **rows_of,
    )
    rows_per_batch = num_heads * rows
    launch(
        image_finish,
        (
            batch * triton.cdiv(rows_per_batch, finish["BLOCK_ROWS"]),
            max(1, triton.cdiv(slot_count, finish["BLOCK_SLOTS"])),
        ),
        device=device,
        num_warps=finish["num_warps"],
        num_stages=finish["num_stages"],
        partials=partials,
        positions=image_positions,
        slots=slots,
        weights=result.weights,
        share=result.share,
        entropy=result.entropy,
        log_sum_exp=result.log_sum_exp,
        rows_per_batch=rows_per_batch,
        stride_image_batch=image_positions.stride(0),
        stride_image_slot=image_positions.stride(1),
        BLOCK_ROWS=finish["BLOCK_ROWS"],
        BLOCK_SLOTS=finish["BLOCK_SLOTS"],
        BLOCK_SPLITS=triton.next_power_of_2(splits),
        **rows_of,
    )
    return result


def _stride(tensor: Tensor | None, dimension: int) -> int:
    return 0 if tensor is None else tensor.stride(dimension)


def _check(
    query: Tensor,
    key: Tensor,
    image_positions: Tensor,
    row_positions: Tensor | None,
    first_columns: Tensor | None,
    visible: Tensor | None,
    window: int | None,
    row_alpha: Tensor | None,
    heads: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.device:
    check_no_gradient("image_attention", query=query, key=key, row_alpha=row_alpha)
    check_shape("query", query, ("B", "H", "R", "D"))
    batch, num_heads, rows, size = query.shape
    require(1 <= size <= _LARGEST_HEAD, f"head size must be 1 to {_LARGEST_HEAD}, got {size}")
    check_shape("key", key, (batch, "G", "N", size))
    groups, width = key.shape[1:3]
    require(
        groups > 0 and num_heads % groups == 0,
        f"query heads must be a multiple of the {groups} key heads, got {num_heads}",
    )
    check_dtype("query", query, FLOAT_TYPES)
    check_dtype("key", key, query.dtype)
    check_shape("image_positions", image_positions, (batch, "M"))
    check_dtype("image_positions", image_positions, _INTEGERS)
    if visible is not None:
        others = (row_positions, first_columns, window)
        require(
            all(other is None for other in others),
            "visible replaces row_positions, first_columns and window: give it alone, got both",
        )
        shape = (batch, 1, rows, width) if visible.dim() == 4 else (batch, rows, width)
        check_shape("visible", visible, shape)
        check_dtype("visible", visible, torch.bool)
    elif row_positions is None:
        require(
            rows <= width,
            f"without row_positions the rows are the last of the {width} tokens, got {rows} rows",
        )
    else:
        check_shape("row_positions", row_positions, (batch, rows))
        check_dtype("row_positions", row_positions, _INTEGERS)
    if first_columns is not None:
        check_shape("first_columns", first_columns, (batch,))
        check_dtype("first_columns", first_columns, torch.int32)
    require(window is None or window > 0, f"window must be positive, got {window}")
    if softcap is not None:
        check_positive("softcap", softcap)
    check_finite("scaling", 1.0 if scaling is None else scaling)
    if row_alpha is not None:
        check_shape("row_alpha", row_alpha, (batch, rows))
        check_dtype("row_alpha", row_alpha, torch.float32)
    if heads is not None:
        check_shape("heads", heads, (num_heads,))
        check_dtype("heads", heads, torch.bool)
    return check_devices(
        query=query,
        key=key,
        image_positions=image_positions,
        row_positions=row_positions,
        first_columns=first_columns,
        visible=visible,
        row_alpha=row_alpha,
        heads=heads,
    )
