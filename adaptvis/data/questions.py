"""Questions about a scene, and their answers by geometry.

Six categories (what names the objects: color, shape, shape_color; what is asked: absolute or
relative position) and three kinds (`what` is there, `where` is it, `yes_no`). Kind and candidate
answers follow from the wording, so the published columns (question, answer, category) are enough.
Only questions with one clear answer are produced: every comparison keeps a margin in cells.
"""

import random
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, get_args

from adaptvis.data.scenes import CANVAS, COLORS, SHAPES, Scene, SceneObject

__all__ = [
    "CATEGORIES",
    "KINDS_OF",
    "POSITIONS",
    "RELATIONS",
    "Category",
    "Kind",
    "Question",
    "absolute_position",
    "asked_objects",
    "candidates_of",
    "kind_of",
    "questions_about",
    "relation_between",
]

Category = Literal[
    "color_absolute",
    "color_relative",
    "shape_absolute",
    "shape_relative",
    "shape_color_absolute",
    "shape_color_relative",
]
Kind = Literal["what", "where", "yes_no"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
POSITIONS = ("left", "right", "top", "bottom")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PHRASE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
PLACE = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
KINDS_OF: dict[str, tuple[Kind, Kind]] = {
    c: ("what", "where") if c.endswith("absolute") else ("where", "yes_no") for c in CATEGORIES
}

EXTREME_MARGIN = 5
"""By how many cells the outermost object must lead the next one."""
AXIS_MARGIN = 6
"""By how many cells the larger of the two offsets must exceed the other."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its only right answer, in lower case."""

    text: str
    answer: str
    category: Category

    @property
    def kind(self) -> Kind:
        return kind_of(self.text)

    @property
    def candidates(self) -> tuple[str, ...]:
        """All answers that the wording allows; the right one is among them."""
        return candidates_of(self.text)


def kind_of(text: str) -> Kind:
    """The kind of a question, from its first word."""
    first = text.split(maxsplit=1)[0].lower() if text.strip() else ""
    return "where" if first == "where" else "yes_no" if first in {"is", "are", "does"} else "what"


def candidates_of(text: str) -> tuple[str, ...]:
    """The possible answers of a question in our wording; empty for a wording that is not ours."""
    words = text.lower().replace("?", " ").split()
    if not words:
        return ()
    if words[0] == "where":
        return RELATIONS if "relation" in words else POSITIONS
    if words[0] == "is":
        return ("yes", "no")
    if words[:2] == ["what", "object"]:
        return tuple(f"{c} {s}" for c in COLORS for s in SHAPES)
    if words[:2] == ["what", "color"]:
        return tuple(COLORS)
    return SHAPES if words[:2] == ["what", "shape"] else ()


def absolute_position(item: SceneObject) -> str | None:
    """left, right, top or bottom of the image, or None where it is not clear."""
    centre = (CANVAS - 1) / 2
    return _direction(item.x - centre, item.y - centre, POSITIONS)


def relation_between(first: SceneObject, second: SceneObject) -> str | None:
    """Where `first` lies as seen from `second`, or None where it is not clear."""
    return _direction(first.x - second.x, first.y - second.y, RELATIONS)


def _direction(dx: float, dy: float, names: tuple[str, ...]) -> str | None:
    if abs(abs(dx) - abs(dy)) < AXIS_MARGIN:
        return None
    return names[dx > 0] if abs(dx) > abs(dy) else names[2 + (dy > 0)]


def outermost(scene: Scene, position: str) -> SceneObject | None:
    """The object that lies furthest to one side, or None where two compete."""
    sign = 1 if position in ("left", "top") else -1
    horizontal = position in ("left", "right")
    order = sorted(scene.objects, key=lambda o: sign * (o.x if horizontal else o.y))
    first, second = ((o.x if horizontal else o.y) for o in order[:2])
    return order[0] if abs(first - second) >= EXTREME_MARGIN else None


def asked_objects(scene: Scene, text: str) -> tuple[SceneObject, ...]:
    """The objects that a question is about: those it names, or else the one at the place it names.

    Empty for a wording that is not ours.
    """
    words = text.lower().replace("?", " ?")
    named = tuple(
        o
        for o in scene.objects
        if any(
            f"the {name(o, naming)} " in words and _unique(scene, o, naming)
            for naming in ("color", "shape", "shape_color")
        )
    )
    if named:
        return named
    places = [p for p, phrase in PLACE.items() if f" {phrase} of the image" in words]
    item = outermost(scene, places[0]) if places and len(scene.objects) > 1 else None
    return () if item is None else (item,)


def questions_about(scene: Scene, category: Category, kind: Kind) -> list[Question]:
    """All questions of a category and kind that this scene answers clearly, in a fixed order."""
    naming, _, asked = category.rpartition("_")
    named = [(name(o, naming), o) for o in scene.objects if _unique(scene, o, naming)]
    if kind == "what":
        return _what(scene, naming, category) if asked == "absolute" else []
    if asked == "absolute":
        if kind != "where":
            return []
        return [
            Question(f"Where is the {label} in the image?", answer, category)
            for label, o in named
            if (answer := absolute_position(o))
        ]
    found = []
    for (label, first), (other, second) in permutations(named, 2):
        relation = relation_between(first, second)
        if relation is None:
            continue
        if kind == "where":
            text = f"Where is the {label} in relation to the {other}?"
            found.append(Question(text, relation, category))
            continue
        for claim in (relation, OPPOSITE[relation]):
            text = f"Is the {label} {PHRASE[claim]} the {other}?"
            found.append(Question(text, "yes" if claim == relation else "no", category))
    return found


def name(item: SceneObject, naming: str) -> str:
    """How a question names an object: by colour, by shape or by both."""
    match naming:
        case "color":
            return f"{item.color} object"
        case "shape":
            return item.shape
        case _:
            return f"{item.color} {item.shape}"


def _unique(scene: Scene, item: SceneObject, naming: str) -> bool:
    return sum(name(o, naming) == name(item, naming) for o in scene.objects) == 1


def _what(scene: Scene, naming: str, category: Category) -> list[Question]:
    asked = {"color": "color", "shape": "shape", "shape_color": "object"}[naming]
    found = []
    for position in POSITIONS:
        if (item := outermost(scene, position)) is None:
            continue
        color, shape = item.color, item.shape
        answer = {"color": color, "shape": shape, "shape_color": f"{color} {shape}"}[naming]
        found.append(Question(f"What {asked} is {PLACE[position]} of the image?", answer, category))
    return found


def pick_balanced(options: list[Question], counts: dict[str, int], rng: random.Random) -> Question:
    """One of `options` whose answer has been used least so far; updates `counts`."""
    least = min(counts.get(q.answer, 0) for q in options)
    choice = rng.choice([q for q in options if counts.get(q.answer, 0) == least])
    counts[choice.answer] = least + 1
    return choice
