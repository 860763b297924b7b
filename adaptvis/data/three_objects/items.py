"""Questions about three things in a row, and pairs of them that differ in what is where.

Dual Mechanisms, section 4: all ordered triples of six colours or shapes (120) or eight objects
(336), each asked in four directions from the middle one. The published prompt is known for
Squares; those of Shapes and Objects follow it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, get_args

from PIL import Image

from adaptvis.data.three_objects.drawing import OBJECTS, SHAPES, SQUARES, draw_pictures, paste
from adaptvis.data.three_objects.layout import Axis, Layout
from adaptvis.errors import DataError

__all__ = [
    "DIRECTIONS",
    "KINDS",
    "SYSTEM_PROMPT",
    "WORDINGS",
    "Direction",
    "Item",
    "Kind",
    "Pair",
    "Wording",
    "all_items",
    "draw_pairs",
    "names_of",
]

Kind = Literal["squares", "shapes", "objects"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Direction = Literal["left", "right", "above", "below"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
Wording = Literal["published", "short"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

SYSTEM_PROMPT = "You are a helpful assistant. You respond in one token."
_OPPOSITE: dict[Direction, Direction] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}
_PHRASE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_PUBLISHED = {
    "squares": "The color of the square {phrase} the {middle} square is",
    "shapes": "The shape {phrase} the {middle} is a",
    "objects": "The object {phrase} the {middle} is a",
}
_PLACE = {
    "left": "on the left",
    "right": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
_SHORT = {"squares": "color", "shapes": "shape", "objects": "object"}


@dataclass(frozen=True)
class Item:
    """One question: three names along an axis, and the direction asked about.

    names: first to last, that is left to right or top to bottom.
    """

    kind: Kind
    names: tuple[str, str, str]
    direction: Direction

    @property
    def axis(self) -> Axis:
        """The axis on which the three things lie."""
        return "horizontal" if self.direction in ("left", "right") else "vertical"

    @property
    def asks_first(self) -> bool:
        """Whether the first thing is asked about; else it is the last."""
        return self.direction in ("left", "above")

    @property
    def answer(self) -> str:
        return self.names[0 if self.asks_first else 2]

    @property
    def other_end(self) -> str:
        """The answer if the three things lay in the opposite order."""
        return self.names[2 if self.asks_first else 0]

    def mirrored(self) -> Item:
        """The same question about the same things in the opposite order."""
        first, middle, last = self.names
        return Item(self.kind, (last, middle, first), self.direction)

    def prompt(self, wording: Wording = "published") -> str:
        """The question's text; "short" asks about an end of the picture in few words."""
        if wording == "short":
            return f"What {_SHORT[self.kind]} is {_PLACE[self.direction]} of the image?"
        phrase = _PHRASE[self.direction]
        return _PUBLISHED[self.kind].format(phrase=phrase, middle=self.names[1])

    def image(
        self, layout: Layout, pictures: Mapping[str, Image.Image] | None = None
    ) -> Image.Image:
        """The scene, RGB; ``pictures`` by name, drawn ones where None."""
        if pictures is None:
            pictures = draw_pictures(self.kind, layout.size * layout.cell)
        return paste(layout, self.axis, pictures, self.names)


@dataclass(frozen=True)
class Pair:
    """A question and its counterfactual: same middle, other ends, opposite direction."""

    clean: Item
    counterfactual: Item

    @property
    def candidates(self) -> tuple[str, str, str, str]:
        """Clean answer, clean other end, counterfactual answer, counterfactual other end.

        The second is what the clean picture holds in the counterfactual's direction.
        """
        return (
            self.clean.answer,
            self.clean.other_end,
            self.counterfactual.answer,
            self.counterfactual.other_end,
        )


def names_of(kind: str) -> tuple[str, ...]:
    """The names of a kind: six colours, six shapes or eight objects.

    Raises:
        DataError: unknown kind.
    """
    if kind not in KINDS:
        raise DataError(f"Unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    return {"squares": SQUARES, "shapes": SHAPES, "objects": OBJECTS}[kind]


def all_items(kind: Kind, names: Sequence[str] | None = None) -> list[Item]:
    """Every ordered triple of the names in every direction; 480, 480 and 1344 as published.

    Args:
        names: fewer or others; all of the kind where None.

    Raises:
        DataError: unknown kind, or fewer than three names.
    """
    names = _enough(kind, names, 3)
    triples = list(permutations(names, 3))
    return [Item(kind, triple, direction) for triple in triples for direction in DIRECTIONS]


def draw_pairs(
    kind: Kind, count: int = 50, *, seed: int = 0, names: Sequence[str] | None = None
) -> list[Pair]:
    """``count`` pairs, directions in turn; the same arguments give the same pairs.

    The clean question is about (c0, c1, c2), its counterfactual about (c4, c1, c3). No clean
    picture comes twice, so that pairs count as independent.

    Raises:
        DataError: unknown kind, a count below 1 or above the number of pictures, or fewer than five
            names.
    """
    names = _enough(kind, names, 5)
    if count < 1:
        raise DataError(f"The number of pairs must be at least 1, got {count}")
    pictures = 2 * len(names) * (len(names) - 1) * (len(names) - 2)
    if count > pictures:
        raise DataError(
            f"{len(names)} {kind} make {pictures} different pictures, got {count} pairs; ask for "
            "fewer"
        )
    rng = random.Random(f"{kind}/{seed}")
    pairs: list[Pair] = []
    seen: set[tuple[Axis, tuple[str, ...]]] = set()
    while len(pairs) < count:
        direction = DIRECTIONS[len(pairs) % len(DIRECTIONS)]
        c0, c1, c2, c3, c4 = rng.sample(list(names), 5)
        axis = Item(kind, (c0, c1, c2), direction).axis
        if (axis, (c0, c1, c2)) in seen:
            continue
        seen.add((axis, (c0, c1, c2)))
        clean = Item(kind, (c0, c1, c2), direction)
        pairs.append(Pair(clean, Item(kind, (c4, c1, c3), _OPPOSITE[direction])))
    return pairs


def _enough(kind: Kind, names: Sequence[str] | None, wanted: int) -> tuple[str, ...]:
    own = names_of(kind)
    chosen = own if names is None else tuple(dict.fromkeys(names))
    if len(chosen) < wanted:
        raise DataError(
            f"{wanted} different names are needed and {len(chosen)} are there "
            f"({', '.join(chosen) or 'none'}); choose another kind of things"
        )
    return chosen
