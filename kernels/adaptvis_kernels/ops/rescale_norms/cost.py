"""What one call must move and compute."""

from __future__ import annotations

__all__ = ["cost"]


def cost(
    rows: int,
    hidden_size: int,
    *,
    normalize: bool = False,
    backward: bool = False,
    element_size: int = 2,
    weight_size: int = 4,
) -> tuple[int, int]:
    """Bytes and floating-point operations of one call of either function, in either direction.

    Forward reads and writes each element once; backward reads two and writes one. The weight of
    ``normalize_projection`` (weight_size: bytes per element) and its gradient count once. The
    operations are those of the README's table, per element; those per row are left out.
    """
    elements = rows * hidden_size
    moved = elements * element_size * (3 if backward else 2)
    if not normalize:
        return moved, elements * (7 if backward else 3)
    moved += hidden_size * weight_size * (2 if backward else 1)
    return moved, elements * (15 if backward else 6)
