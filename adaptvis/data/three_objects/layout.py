"""Where three objects lie on a square grid of image tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from adaptvis.errors import DataError

__all__ = ["Axis", "Box", "Layout"]

Axis = Literal["horizontal", "vertical"]
"""Left to right in the middle row, or top to bottom in the middle column."""


class Box(NamedTuple):
    """Tokens from (top, left) to (bottom, right), the latter exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def tokens(self, columns: int) -> list[int]:
        """Positions in the image's tokens, row after row; ``columns`` of the whole grid."""
        return [
            row * columns + column
            for row in range(self.top, self.bottom)
            for column in range(self.left, self.right)
        ]


@dataclass(frozen=True)
class Layout:
    """A square picture of ``grid`` x ``grid`` image tokens with three objects on one axis.

    The published geometry has a grid of 12, objects of 2 x 2 tokens, 2 tokens apart (Qwen2-VL), or
    16, 3 x 3 and 3 (Gemma-3).

    grid: image tokens per side. cell: pixels per token and side. size: tokens per side of an
        object. spacing: tokens between two objects.

    Raises:
        DataError: three objects do not fit.
    """

    grid: int
    cell: int
    size: int
    spacing: int

    def __post_init__(self) -> None:
        if min(self.grid, self.cell, self.size) < 1 or self.spacing < 0:
            raise DataError(f"A layout's sizes must be at least 1, got {self}")
        if self._span > self.grid:
            raise DataError(
                f"Three objects of {self.size} tokens, {self.spacing} apart, need {self._span} "
                f"tokens, but the picture has {self.grid} per side; make them smaller"
            )

    @classmethod
    def for_grid(cls, grid: int, cell: int) -> Layout:
        """Objects of a sixth of the grid, as far apart as they are wide.

        Raises:
            DataError: a grid of fewer than 5 tokens.
        """
        size = max(1, grid // 6)
        return cls(grid, cell, size, size)

    @property
    def canvas(self) -> int:
        """Side of the picture in pixels."""
        return self.grid * self.cell

    @property
    def _span(self) -> int:
        return 3 * self.size + 2 * self.spacing

    @property
    def starts(self) -> tuple[int, int, int]:
        """Where the three objects begin along their axis, in tokens."""
        first = (self.grid - self._span) // 2
        step = self.size + self.spacing
        return first, first + step, first + 2 * step

    def slots(self, axis: Axis) -> tuple[Box, Box, Box]:
        """The tokens of the three objects, first to last; the middle one is centred."""
        across = (self.grid - self.size) // 2
        first, middle, last = (
            Box(across, start, across + self.size, start + self.size)
            if axis == "horizontal"
            else Box(start, across, start + self.size, across + self.size)
            for start in self.starts
        )
        return first, middle, last

    def strips(self, axis: Axis) -> tuple[Box, Box]:
        """Whole columns (rows of a vertical layout) around the first and around the last object.

        They are as wide as each other and hold their objects at the same place: half the spacing,
        and at least one token, on each side where the picture has as many.
        """
        first, _, last = self.starts
        margin = max(1, self.spacing // 2) if self.spacing else 0
        before = min(margin, first)
        after = min(margin, self.grid - last - self.size)
        boxes = [(start - before, start + self.size + after) for start in (first, last)]
        if axis == "horizontal":
            low, high = (Box(0, begin, self.grid, end) for begin, end in boxes)
        else:
            low, high = (Box(begin, 0, end, self.grid) for begin, end in boxes)
        return low, high
