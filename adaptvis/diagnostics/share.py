"""A count out of a number, with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adaptvis.evaluation.statistics import wilson_interval

__all__ = ["Share"]


@dataclass(frozen=True)
class Share:
    """A count out of a number, with Wilson's 95 % interval."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.count, self.total)

    def above(self, line: float) -> bool | None:
        """Whether the share lies above a line; None where the interval holds the line."""
        low, high = self.interval
        return True if low > line else False if high < line else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "of": self.total,
            "value": self.value,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count} of {self.total} ({100 * low:.0f} to {100 * high:.0f} %)"
