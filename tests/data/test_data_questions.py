"""Every answer is checked against a second, independent reading of the scene's geometry."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptvis.data.questions import (
    CATEGORIES,
    KINDS_OF,
    Question,
    asked_objects,
    candidates_of,
    kind_of,
    questions_about,
)
from adaptvis.data.scenes import Scene, SceneObject, random_scene

Check = Callable[[Scene, Question], None]


@given(seed=st.integers(0, 10**6), count=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_every_answer_is_true_of_the_scene(check_answer: Check, seed: int, count: int) -> None:
    scene = random_scene(random.Random(seed), count, "train")
    for category in CATEGORIES:
        for kind in KINDS_OF[category]:
            for question in questions_about(scene, category, kind):
                check_answer(scene, question)
                assert question.kind == kind
                assert question.answer in question.candidates
                assert len(set(question.candidates)) == len(question.candidates)


def test_wording_of_the_paper() -> None:
    scene = Scene(
        (SceneObject("red", "circle", 20, 40, 5), SceneObject("blue", "square", 22, 12, 5))
    )
    what = [q.text for q in questions_about(scene, "color_absolute", "what")]
    asked = [q.text for q in questions_about(scene, "shape_relative", "yes_no")]
    assert "What color is at the bottom of the image?" in what
    assert "Is the circle below the square?" in asked


def test_a_diagonal_pair_is_not_asked_about() -> None:
    scene = Scene(
        (SceneObject("red", "circle", 12, 12, 5), SceneObject("blue", "square", 40, 42, 5))
    )
    assert questions_about(scene, "color_relative", "where") == []
    assert questions_about(scene, "color_absolute", "where") == []


def test_a_shape_that_occurs_twice_is_not_named() -> None:
    scene = Scene(
        (
            SceneObject("red", "circle", 10, 28, 5),
            SceneObject("blue", "circle", 45, 28, 5),
            SceneObject("green", "cross", 28, 28, 5),
        )
    )
    texts = [q.text for q in questions_about(scene, "shape_relative", "where")]
    assert texts == []
    assert any("circle" in q.text for q in questions_about(scene, "shape_color_relative", "where"))


@pytest.mark.parametrize("text", ["", "   ", "Describe the picture.", "What breed is the dog?"])
def test_foreign_wording_has_no_candidates(text: str) -> None:
    assert candidates_of(text) == ()
    assert kind_of(text) == "what"


def test_yes_and_no_are_equally_many_in_every_scene() -> None:
    rng = random.Random(3)
    for count in (2, 4, 6):
        scene = random_scene(rng, count, "test")
        answers = Counter(q.answer for q in questions_about(scene, "color_relative", "yes_no"))
        assert answers["yes"] == answers["no"]


@given(seed=st.integers(0, 10**6), count=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_what_a_question_asks_about(seed: int, count: int) -> None:
    """By the words of the wording, and for places by sorting the objects' centres."""
    scene = random_scene(random.Random(seed), count, "train")
    extreme = {
        "on the left": min(scene.objects, key=lambda o: o.x),
        "on the right": max(scene.objects, key=lambda o: o.x),
        "at the top": min(scene.objects, key=lambda o: o.y),
        "at the bottom": max(scene.objects, key=lambda o: o.y),
    }
    for category in CATEGORIES:
        for kind in KINDS_OF[category]:
            for question in questions_about(scene, category, kind):
                asked = asked_objects(scene, question.text)
                if kind == "what":
                    (place,) = (p for p in extreme if p in question.text)
                    assert asked == (extreme[place],)
                    continue
                words = question.text.rstrip("?").split()
                assert len(asked) == words.count("the") - ("image" in words) - (
                    "to the left" in question.text or "to the right" in question.text
                )
                for item in asked:
                    assert item.color in words or item.shape in words


def test_another_wording_asks_about_nothing() -> None:
    scene = random_scene(random.Random(0), 3, "train")
    assert asked_objects(scene, "How many objects are there?") == ()
    assert asked_objects(Scene(()), "What color is on the left of the image?") == ()
