"""The rule grader on answers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.tasks import Grade, grade
from adaptvis.tasks.grading import mentioned
from adaptvis.tasks.words import normalised_words

SIDES = ("left", "right", "top", "bottom")


@pytest.mark.parametrize(
    ("text", "gold", "candidates", "expected"),
    [
        ("left", ["left"], SIDES, Grade(True, True, True)),
        (" Left. ", ["left"], SIDES, Grade(True, True, True)),
        ("The left", ["left"], SIDES, Grade(True, True, True)),
        ("It is on the left.", ["left"], SIDES, Grade(True, True, False)),
        ("left or right", ["left"], SIDES, Grade(True, False, False)),
        ("right", ["left"], SIDES, Grade(False, False, True)),
        # "on" is a part of "front" and of "bottom", but not one of their words
        ("in front", ["on"], ("on", "front"), Grade(False, False, False)),
        ("bottom", ["on"], ("on", "bottom"), Grade(False, False, True)),
        ("top left", ["left"], (*SIDES, "top left"), Grade(True, False, True)),
        ("red circle", ["red circle"], ("red circle", "red"), Grade(True, True, True)),
        ("circle red", ["red circle"], (), Grade(False, False, False)),
        ("a red circle", ["red circle"], (), Grade(True, True, True)),
        ("two", ["2", "two"], (), Grade(True, True, True)),
        ("", ["left"], SIDES, Grade(False, False, False)),
        ("\uff2c\uff45\uff46\uff54", ["left"], SIDES, Grade(True, True, True)),  # full width
        ("**left**", ["left"], SIDES, Grade(True, True, True)),
        ("_left_", ["left"], SIDES, Grade(True, True, True)),
        ("le\u00adft\u200b", ["left"], SIDES, Grade(True, True, True)),
        ("<b>left</b>", ["left"], SIDES, Grade(True, True, True)),
        ("it\u2019s", ["it's"], (), Grade(True, True, True)),
        # option letters: the article is none
        ("A", ["A"], ("A", "B"), Grade(True, True, True)),
        ("(a)", ["A"], ("A", "B"), Grade(True, True, True)),
        ("The answer is A.", ["A"], ("A", "B"), Grade(True, True, False)),
        ("A cat", ["A"], ("A", "B"), Grade(False, False, False)),
        ("A or B", ["A"], ("A", "B"), Grade(False, False, False)),
        ("(A) or (B)", ["A"], ("A", "B"), Grade(True, False, False)),
        ("B", ["A"], ("A", "B"), Grade(False, False, True)),
        ("a", ["A"], (), Grade(True, True, True)),
        ("", ["A"], (), Grade(False, False, False)),
        # vowel signs are part of their word, whatever the script
        ("की", ["का"], ("का", "की"), Grade(False, False, True)),
        ("की", ["की"], ("का", "की"), Grade(True, True, True)),
        ("कप के बाईं ओर है", ["बाईं"], ("बाईं", "दाईं"), Grade(True, True, False)),
        ("இடது", ["இடம்"], ("இடது", "இடம்"), Grade(False, False, True)),
        # ... but Arabic and Hebrew may leave theirs out
        ("يَسَار", ["يسار"], ("يسار", "يمين"), Grade(True, True, True)),
        ("שְׂמֹאל", ["שמאל"], ("שמאל", "ימין"), Grade(True, True, True)),
        # scripts without blanks between words
        ("在左边。", ["左边"], ("左边", "右边"), Grade(True, True, False)),
        ("在左边。", ["右边"], ("左边", "右边"), Grade(False, False, False)),
        ("左边", ["左边"], (), Grade(True, True, True)),
        ("左上", ["左上"], ("左", "左上"), Grade(True, True, True)),
        ("有3个", ["3"], (), Grade(True, False, False)),
        ("有十二个", ["二"], ("二", "十二"), Grade(False, False, False)),
        ("๑๒", ["๑"], (), Grade(False, False, False)),
        ("コップは左にあります", ["左"], ("左", "右"), Grade(True, True, False)),
        ("อยู่ทางซ้าย", ["ซ้าย"], ("ซ้าย", "ขวา"), Grade(True, True, False)),
        # signs, where there are no words
        ("+", ["+"], ("+", "-"), Grade(True, True, True)),
        ("The sign is +.", ["+"], ("+", "-"), Grade(True, True, False)),
        ("-", ["+"], ("+", "-"), Grade(False, False, True)),
        ("2 + 3", ["2 3"], (), Grade(True, True, True)),
        ("*", ["*"], (), Grade(True, True, True)),
        ("It is left.", ["."], (), Grade(False, False, False)),
        ("?", ["?"], (), Grade(True, True, True)),
        ("👍", ["👍"], ("👍", "👎"), Grade(True, True, True)),
        ("👎", ["👍"], ("👍", "👎"), Grade(False, False, True)),
        ("I say 👍!", ["👍"], ("👍", "👎"), Grade(True, True, False)),
        ("\u2764", ["\u2764\ufe0f"], (), Grade(True, True, True)),
        ("1\ufe0f\u20e3", ["1"], ("1", "2"), Grade(True, True, True)),
    ],
)
def test_grades(text: str, gold: list[str], candidates: tuple[str, ...], expected: Grade) -> None:
    assert grade(text, gold, candidates) == expected


def test_longer_phrases_take_their_words_first() -> None:
    assert mentioned("the top left corner, then left", ["left", "top left"]) == {"left", "top left"}
    assert mentioned("the top left corner", ["left", "top left"]) == {"top left"}


@given(st.text())
def test_any_text_is_graded_without_failing(text: str) -> None:
    result = grade(text, ["left"], SIDES)
    assert result.correct or not result.strict
    assert normalised_words(" ".join(normalised_words(text))) == normalised_words(text)
