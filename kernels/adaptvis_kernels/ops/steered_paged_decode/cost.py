"""How much the steered decode must move and compute."""

from __future__ import annotations

__all__ = ["cost"]


def cost(
    *,
    batch: int,
    rows: int,
    heads: int,
    groups: int,
    head_size: int,
    columns: int,
    element_size: int = 2,
) -> tuple[int, int]:
    """Bytes and floating-point operations of one call; the README derives them.

    Args:
        rows: query rows of each of ``batch`` requests. columns: cached tokens of each.
        heads, groups: query heads, and key/value heads.
    """
    cache = 2 * batch * columns * groups * head_size * element_size
    queries_and_outputs = 2 * batch * rows * heads * head_size * element_size
    # One byte per column says which are image tokens; each group of heads reads it.
    image = batch * columns * groups
    operations = 4 * batch * rows * heads * columns * head_size
    return cache + queries_and_outputs + image, operations
