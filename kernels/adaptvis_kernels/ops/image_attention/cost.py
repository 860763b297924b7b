"""Bytes and floating-point operations of one call, from its shapes."""

from __future__ import annotations

__all__ = ["cost"]


def cost(
    *,
    batch: int,
    query_heads: int,
    key_heads: int,
    rows: int,
    columns: int,
    image_tokens: int,
    head_size: int,
    element_size: int,
    explicit_mask: bool = False,
) -> tuple[int, int]:
    """What must move, in bytes, and the floating-point operations of the logits.

    Every key and query once, weights once, three statistics per row, the positions, and an explicit
    mask once. ``columns`` are the visible ones: with a window, those that some row sees.
    """
    bytes_moved = batch * key_heads * columns * head_size * element_size
    bytes_moved += batch * query_heads * rows * head_size * element_size
    bytes_moved += 4 * batch * query_heads * rows * (image_tokens + 3)
    bytes_moved += 4 * batch * image_tokens
    if explicit_mask:
        bytes_moved += batch * rows * columns
    return bytes_moved, 2 * batch * query_heads * rows * columns * head_size
