"""How good the best of a grid looks by luck alone.

The more settings compete on the fewer questions, the better the best of them looks where none
helps. Flipping the sign of every image's paired differences (setting minus no steering) at random
keeps their size and how settings resemble each other, and removes any effect: the best mean
difference that the same search then finds is luck (the max statistic of a sign-flip test, Westfall
and Young 1993).
"""

from typing import NamedTuple

import numpy as np

from adaptvis.tuning.cuts import Cuts, largest_sum
from adaptvis.tuning.sweep import Sweep

__all__ = ["ACCEPTABLE_LUCK", "Luck", "luck_of"]

ACCEPTABLE_LUCK = 0.02
_FLIPS = 20


class Luck(NamedTuple):
    """points: what luck alone adds to the best setting's accuracy, a fraction, typically.

    questions: about how many would bring it down to 0.02: luck shrinks with their square root.
    """

    points: float
    questions: int


def luck_of(sweep: Sweep, *, seed: int = 0) -> Luck:
    """The median over 20 random flips; always of accuracy, and over the whole search."""
    neutral = sweep.points[0, sweep.grid.neutral]
    differences = sweep.points - neutral
    image = np.unique(np.asarray(sweep.images), return_inverse=True)[1]
    cuts = Cuts.of(sweep.confidence)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(_FLIPS):
        sign = generator.choice([-1.0, 1.0], size=int(image.max()) + 1)[image]
        found.append(max(largest_sum(own * sign, cuts) for own in differences))
    points = float(np.median(found)) / len(image)
    needed = len(image) * (points / ACCEPTABLE_LUCK) ** 2
    # Two digits: it is an estimate.
    return Luck(points, int(float(f"{needed:.2g}")))
