"""What one call must move and compute, from its shapes."""

from __future__ import annotations

__all__ = ["cost"]


def cost(
    batch: int,
    num_heads: int,
    groups: int,
    rows: int,
    columns: int,
    head_size: int,
    element_size: int = 2,
    *,
    window: int | None = None,
) -> tuple[int, int]:
    """Bytes and floating-point operations of a causal call; the rows are the last of the columns.

    Bytes: query, key, value and output once, 4 per row for alpha. Operations: two products of
    2 * head_size per visible pair of row and column; softmax and steering are not counted.
    """
    tensors = num_heads * rows + groups * columns
    moved = 2 * batch * tensors * head_size * element_size + 4 * batch * rows
    reach = columns if window is None else min(window, columns)
    earlier = columns - rows
    # Row r sees min(earlier + r + 1, reach) columns.
    growing = min(max(reach - earlier, 0), rows)
    pairs = growing * earlier + growing * (growing + 1) // 2 + (rows - growing) * reach
    return moved, 4 * head_size * batch * num_heads * pairs
