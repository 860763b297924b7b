"""Option letters: two published parsers, and ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.tasks.options import (
    cambrian_letter,
    letters_mentioned,
    lmms_eval_letter,
    parse_letter,
)


@pytest.mark.parametrize(
    ("text", "lmms_eval", "cambrian", "mentioned", "parsed"),
    [
        ("(B)", "B", "B", {"B"}, "B"),
        ("b", "B", "b", {"B"}, "B"),
        (" (b). ", "B", "b", {"B"}, "B"),
        ("B. right", "B", "B", {"B"}, "B"),
        ("The left one", "T", "T", set(), ""),
        ("The answer is (B).", "T", "B", {"B"}, "B"),
        ("The answer is B", "T", "B", {"B"}, "B"),
        ("The answer is a cat", "T", "a", set(), ""),
        ("Option A.", "O", "O", {"A"}, "A"),
        ("A cat", "A", "A", set(), "A"),
        ("Bob", "B", "B", set(), ""),
        ("a's", "A", "a", set(), ""),
        ("(A) or (B)", "A", "A", {"A", "B"}, ""),
        ("(C)", "C", "C", set(), ""),
        ("2", "", "2", set(), ""),
        ("", "", "", set(), ""),
    ],
)
def test_letters(
    text: str, lmms_eval: str, cambrian: str, mentioned: set[str], parsed: str
) -> None:
    assert lmms_eval_letter(text) == lmms_eval
    assert cambrian_letter(text) == cambrian
    assert letters_mentioned(text, "AB") == mentioned
    assert parse_letter(text, "AB") == parsed


@given(st.text())
def test_any_text_gives_an_option_or_nothing(text: str) -> None:
    assert parse_letter(text, "ABCD") in {"", "A", "B", "C", "D"}
    assert letters_mentioned(text, "ab") <= {"A", "B"}
    assert len(lmms_eval_letter(text)) <= 2  # the long s and its like have two capitals
    assert len(cambrian_letter(text)) <= 1


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "({}) left"]))
def test_usual_forms_are_read(letter: str, form: str) -> None:
    assert parse_letter(form.format(letter), "ABCD") == letter
