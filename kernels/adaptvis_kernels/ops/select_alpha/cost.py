"""What one call must move and compute."""

from __future__ import annotations

__all__ = ["cost"]


def cost(rows: int, vocabulary_size: int, *, element_size: int = 2) -> tuple[int, int]:
    """Bytes and floating-point operations of one call; element_size: bytes per logit.

    Bytes: every logit once; confidence and alpha once each. Operations: maximum, subtraction,
    exponential (as one) and addition per logit.
    """
    return rows * (vocabulary_size * element_size + 2 * 4), 4 * rows * vocabulary_size
