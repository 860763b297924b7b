"""An independent reading of the scenes' geometry, for checking answers."""

from collections.abc import Callable

import pytest

from adaptvis.data.questions import Question
from adaptvis.data.scenes import COLORS, SHAPES, Scene, SceneObject

SIDES = {  # direction -> (axis, sign)
    "left": ("x", -1),
    "right": ("x", 1),
    "top": ("y", -1),
    "above": ("y", -1),
    "bottom": ("y", 1),
    "below": ("y", 1),
}


def described(scene: Scene, words: list[str]) -> list[SceneObject]:
    """The objects that a noun phrase can mean."""
    color = next((w for w in words if w in COLORS), None)
    shape = next((w for w in words if w in SHAPES), None)
    return [o for o in scene.objects if color in (None, o.color) and shape in (None, o.shape)]


def check(scene: Scene, question: Question) -> None:
    words = question.text.lower().rstrip("?").split()
    direction = next((w for w in words if w in SIDES), None)
    if words[0] == "what":
        axis, sign = SIDES[direction or ""]
        values = sorted((sign * getattr(o, axis) for o in scene.objects), reverse=True)
        assert values[0] - values[1] >= 5
        item = max(scene.objects, key=lambda o: sign * getattr(o, axis))
        expected = {
            "color": item.color,
            "shape": item.shape,
            "object": f"{item.color} {item.shape}",
        }
        assert question.answer == expected[words[1]]
        return
    cut = next((i for i, w in enumerate(words) if w in ("to", "in", "above", "below")), len(words))
    (first,) = described(scene, words[:cut])
    if words[0] == "where" and "relation" not in words:
        dx, dy, up, down = first.x - 27.5, first.y - 27.5, "top", "bottom"
    else:
        (second,) = described(scene, words[cut:])
        assert first != second
        dx, dy, up, down = first.x - second.x, first.y - second.y, "above", "below"
    true = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else down if dy > 0 else up
    assert abs(abs(dx) - abs(dy)) >= 6
    if words[0] == "where":
        assert question.answer == true
    else:
        # Asked along the clear axis only: the claim is the relation or its opposite.
        assert SIDES[direction or ""][0] == SIDES[true][0]
        assert question.answer == ("yes" if direction == true else "no")


@pytest.fixture(scope="session")
def check_answer() -> Callable[[Scene, Question], None]:
    """Asserts that a question's answer is true of a scene, and clearly so."""
    return check
