"""One part of a run for one of several machines: whole images and sets, the same every time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adaptvis.errors import ConfigError
from adaptvis.tasks import Sample, units_of

__all__ = ["Shard", "shard_of_each"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `of` parts, counted from 1.

    Raises:
        ConfigError: the number lies outside 1..of.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(
                f"--shard takes I/N with I from 1 to N, such as 1/4, got {self.number}/{self.of}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard of a text such as `1/4`.

        Raises:
            ConfigError: it is no such text.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise ConfigError(f"--shard takes I/N with I from 1 to N, such as 1/4, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def shard_of_each(
    samples: Sequence[Sample], shards: int, joined_by: str | None = None
) -> list[int]:
    """The number of the shard that each sample belongs to.

    Images are dealt out in turn as they first appear. All questions of an image stay together, and
    those of a pair or set, so that a shard's own intervals and metrics are honest, too.

    Args:
        joined_by: the tag of pairs or sets, see :attr:`adaptvis.tasks.Task.joined_by`.
    """
    units = units_of([s.image_id for s in samples], [s.tags for s in samples], joined_by)
    return [1 + unit % shards for unit in units]
