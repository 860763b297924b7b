"""How many questions of a task may fail before a run gives up."""

import math
import re
from dataclasses import dataclass

from adaptvis.errors import ConfigError

__all__ = ["ErrorLimit"]


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """A share of a task's questions, rounded up, or a number of them.

    Raises:
        ConfigError: below 0, or a share above 1.
    """

    value: float = 0.05
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
        return cls(float(match[1]) / 100) if match[1] else cls(int(match[2]), is_share=False)

    def allowed(self, questions: int) -> int:
        """How many of so many questions may fail."""
        return math.ceil(self.value * questions) if self.is_share else int(self.value)

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.is_share else f"{self.value:g}"
