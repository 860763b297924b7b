"""How vLLM's attention backends store keys and values, seen as [blocks, block_size, G, D].

A layout is never trusted: at start-up :func:`check_layout` has the backend write known numbers into
a small cache of the same kind, and reads them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adaptvis.errors import UnsupportedError

__all__ = ["blocks_of", "check_layout", "layout_name"]

_AMX = "amx"
_HEAD_MAJOR = ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER")


def layout_name(layer: Any) -> str:
    """The name of the layout of one attention layer's cache.

    Raises:
        UnsupportedError: the backend stores keys and values in a way that is not known here.
    """
    backend = layer.attn_backend.get_name()
    if backend in _HEAD_MAJOR:
        return "head-major"
    # Before vLLM 0.30 it was an attribute of the implementation.
    isa = getattr(layer, "isa", None) or getattr(getattr(layer, "impl", None), "isa", None)
    if backend == "CPU_ATTN" and isa in ("vec", "vec16", _AMX):
        return str(isa)
    raise UnsupportedError(
        f"adaptvis cannot read the key-value cache of the attention backend {backend}"
        f"{f' ({isa})' if isa else ''}; choose one of {', '.join(_HEAD_MAJOR)} with "
        "--attention-backend, or run vLLM with ADAPTVIS_DISABLE=1"
    )


def blocks_of(kv_cache: Tensor, block_table: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [blocks, block_size, G, D], and the block table that goes with them.

    Views of the cache with their strides, where strides can express the layout. ``amx`` interleaves
    pairs of tokens and of dimensions, so the blocks of the table are copied out.

    Args:
        kv_cache: [blocks, G, block_size, 2 * D]. block_table: int32 [B, n].
    """
    blocks, groups, block_size, double = kv_cache.shape
    size = double // 2
    if layout == "head-major":
        keys, values = kv_cache.transpose(1, 2).split(size, dim=-1)
        return keys, values, block_table
    if layout == _AMX:
        kv_cache = kv_cache[block_table.flatten()]
        block_table = torch.arange(
            block_table.numel(), dtype=block_table.dtype, device=block_table.device
        ).view_as(block_table)
        blocks = len(kv_cache)
    # The CPU backend keeps all keys of a block and head before all its values.
    halves = kv_cache.view(blocks, groups, 2, block_size * size)
    keys, values = halves.unbind(2)
    if layout == _AMX:
        # Key of token t, dimension k: (t // 16) 16 D + (k // 2) 32 + (t % 16) 2 + k % 2.
        keys = keys.view(blocks, groups, block_size // 16, size // 2, 16, 2)
        keys = keys.permute(0, 2, 4, 1, 3, 5).reshape(blocks, block_size, groups, size)
        # Value: (k // 16) 16 block_size + (t // 2) 32 + (k % 16) 2 + t % 2.
        values = values.view(blocks, groups, size // 16, block_size // 2, 16, 2)
        values = values.permute(0, 3, 5, 1, 2, 4).reshape(blocks, block_size, groups, size)
        return keys, values, block_table
    keys = keys.view(blocks, groups, size, block_size).permute(0, 3, 1, 2)
    values = values.view(blocks, groups, block_size, size).permute(0, 2, 1, 3)
    return keys, values, block_table


def check_layout(layer: Any, kv_cache: Tensor, layout: str, write: Callable[..., None]) -> None:
    """Write numbers through the backend's own ``write`` and find them where they should be.

    Args:
        kv_cache: the layer's cache; only its shape, strides and type are used.
        write: the backend's ``do_kv_cache_update``.

    Raises:
        UnsupportedError: they were not found.
    """
    _, groups, block_size, double = kv_cache.shape
    blocks, size = 3, double // 2
    scratch = torch.empty_strided(
        (blocks, *kv_cache.shape[1:]),
        kv_cache.stride(),
        dtype=kv_cache.dtype,
        device=kv_cache.device,
    ).zero_()
    tokens = blocks * block_size
    generator = torch.Generator().manual_seed(0)
    # Small integers are exact in every floating-point type.
    shape = (tokens, groups, size)
    keys, values = (
        torch.randint(-128, 128, shape, generator=generator).to(kv_cache) for _ in range(2)
    )
    slots = torch.randperm(tokens, generator=generator).to(kv_cache.device)
    write(layer, keys, values, scratch, slots)
    table = torch.arange(blocks, dtype=torch.int32, device=kv_cache.device)[None]
    found = blocks_of(scratch, table, layout)
    for name, expected, cache in zip(("keys", "values"), (keys, values), found, strict=False):
        dense = cache[found[2][0]].flatten(0, 1)
        if not torch.equal(dense[slots], expected):
            raise UnsupportedError(
                f"adaptvis does not find {name} where it expects them in the key-value cache of "
                f"{layer.attn_backend.get_name()} (layout {layout}); this version of vLLM stores "
                "them differently, so run it with ADAPTVIS_DISABLE=1 or install a tested version"
            )
