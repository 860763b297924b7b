"""A count out of a number, with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from adaptvis.diagnostics.intervals import above
from adaptvis.evaluation.statistics import FEWEST_IMAGES, wilson_interval

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

    def above(self, line: float, *, looks: int = 1) -> bool | None:
        """Whether the share lies above a line; None where the interval holds the line.

        Fewer than 20 decide nothing.

        Args:
            looks: of how many shares this is the most striking one; the interval is widened for
                them (Bonferroni).
        """
        if self.total < FEWEST_IMAGES:
            return None
        low, high = self.widened(looks)
        return above(line, low, high)

    def widened(self, looks: int) -> tuple[float, float]:
        """The interval that holds for each of so many shares at once."""
        return wilson_interval(self.count, self.total, NormalDist().inv_cdf(1 - 0.025 / looks))

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
