"""How many questions of a task may fail before a run gives up."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from adaptvis.errors import ConfigError

__all__ = ["ErrorLimit"]


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """A share of a task's questions, rounded up, or a number of them.

    A float stands for the decimal that it is written as.

    Raises:
        ConfigError: below 0, or a share above 1.
    """

    value: Fraction | float = 0.05
    is_share: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.value <= (1 if self.is_share else math.inf):
            raise ConfigError(
                f"--max-errors takes 0 to 100 % or a number from 0 on, got {str(self)!r}"
            )

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """The limit of a text such as `5%` or `20`.

        Raises:
            ConfigError: it is no such text.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%|(\d+)", text.strip())
        if match is None:
            raise ConfigError(
                f"--max-errors takes a share such as 5% or a number such as 20, got {text!r}"
            )
        return cls(Fraction(match[1]) / 100) if match[1] else cls(int(match[2]), is_share=False)

    def allowed(self, questions: int) -> int:
        """How many of so many questions may fail."""
        if not self.is_share:
            return int(self.value)
        # In binary floats 7 % of 100 is more than 7, which would allow 8.
        return math.ceil(Fraction(str(self.value)) * questions)

    def __str__(self) -> str:
        value = float(self.value)
        return f"{100 * value:g}%" if self.is_share else f"{value:g}"
