"""Which questions belong to validation and which to test, where no parts were published.

AdaptVis tunes on `random.sample(range(N), int(0.2 * N))` and tests on the rest. Its generator is
seeded with 1, but models are built before it is asked, and the drawn indices were not published:
ours come from a fresh generator, so sizes agree and membership need not.
"""

import random
from collections.abc import Sequence
from typing import Literal, get_args

from adaptvis.errors import ConfigError, unknown_name
from adaptvis.tasks.base import Part, Sample
from adaptvis.tasks.units import units_of

__all__ = ["SPLITS", "Split", "check_split", "split_indices"]

Split = Literal["reference", "grouped"]
"""Single questions are drawn (the published rule), or whole groups of them."""
SPLITS: tuple[Split, ...] = get_args(Split)

_SEED = 1
_VALIDATION_SHARE = 0.2


def check_split(split: str) -> None:
    """Refuse an unknown split.

    Raises:
        ConfigError: there is no such split; the message suggests the nearest.
    """
    if split not in SPLITS:
        raise ConfigError(unknown_name("split", split, SPLITS))


def split_indices(
    samples: Sequence[Sample],
    part: Part,
    split: Split = "reference",
    joined_by: str | None = None,
) -> list[int]:
    """Positions of the part's samples, ascending; a fifth is validation.

    Under "grouped" a fifth of the groups is drawn, so that no picture is in both parts, and pairs
    and sets stay complete where `joined_by` names their tag.
    """
    if part == "all":
        return list(range(len(samples)))
    if split == "reference":
        validation = set(_draw(len(samples)))
    else:
        units = units_of([s.image_id for s in samples], [s.tags for s in samples], joined_by)
        drawn = set(_draw(len(set(units))))
        validation = {i for i, unit in enumerate(units) if unit in drawn}
    return [i for i in range(len(samples)) if (i in validation) == (part == "validation")]


def _draw(count: int) -> list[int]:
    return random.Random(_SEED).sample(range(count), int(_VALIDATION_SHARE * count))
