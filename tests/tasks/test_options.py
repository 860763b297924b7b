"""Option letters: published parsers, and ours."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.tasks.options import (
    cambrian_letter,
    cambrian_option,
    letters_mentioned,
    lmms_eval_letter,
    parse_letter,
)


def scripts_of_cambrian(text: str, ends: str) -> str:
    """eval/eval/{ade,coco,mmvp}/*_test.py of cambrian-mllm/cambrian, step by step."""
    lowered = text.lower().strip()
    for words in ("answer is", "answer is:", "answer:"):
        if words in lowered:
            pieces = lowered.split(words)
            lowered = pieces[len(pieces) - 1]
    lowered = lowered.strip()
    while lowered and lowered[-1] in ends:
        lowered = lowered[:-1]
    while lowered.startswith("("):
        lowered = lowered[1:]
    while lowered.endswith(")"):
        lowered = lowered[:-1]
    return lowered


STARTS = ("", " ", "The answer is ", "The answer is: ", "Answer: ", "ANSWER:", "Final answer:\n")
FORMS = ("{}", "({})", "{}.", "({}).", "(({}))", "{}) left", "( {} )", ".{}", "{}:", "**{}**")
LETTERS = ("A", "b", "B", "C", "\uff22", "Both", "None", "", "\u201cB\u201d", "\u200bB", "\u0130")


def test_cambrians_parsers_on_every_way_of_writing_a_letter() -> None:
    texts = [
        start + form.format(letter) + end
        for start, form, letter in itertools.product(STARTS, FORMS, LETTERS)
        for end in ("", " because the answer is in it")
    ]
    assert len(set(texts)) > 870
    for text in texts:
        assert cambrian_letter(text) == scripts_of_cambrian(text, ".")[:1], text
        assert cambrian_option(text) == scripts_of_cambrian(text, ".:,"), text


@pytest.mark.parametrize(
    ("text", "lmms_eval", "cambrian", "mentioned", "parsed"),
    [
        ("(B)", "B", "b", {"B"}, "B"),
        ("b", "B", "b", {"B"}, "B"),
        (" (b). ", "B", "b", {"B"}, "B"),
        ("B. right", "B", "b", {"B"}, "B"),
        ("B: right", "B", "b", {"B"}, "B"),
        ("B - right", "B", "b", {"B"}, "B"),
        ("B\nIt is right", "B", "b", {"B"}, "B"),
        ("It is right, so:\nB", "I", "i", {"B"}, "B"),
        ("B because it is", "B", "b", set(), "B"),
        ("The left one", "T", "t", set(), ""),
        ("The answer is (B).", "T", "b", {"B"}, "B"),
        ("The answer is B", "T", "b", {"B"}, "B"),
        ("answer: b.", "A", "b", {"B"}, "B"),
        ("Answer:B", "A", "b", {"B"}, "B"),
        ("The answer is: B", "T", ":", {"B"}, "B"),
        ("The answer is a cat", "T", "a", set(), ""),
        ("Answer: A closed butterfly", "A", "a", set(), ""),
        ("The answer is A because it is closed", "T", "a", {"A"}, "A"),
        ("Option A.", "O", "o", {"A"}, "A"),
        ("Option A is right", "O", "o", {"A"}, "A"),
        ("option b", "O", "o", {"B"}, "B"),
        ("A cat", "A", "a", set(), ""),
        ("a", "A", "a", {"A"}, "A"),
        ("a.m.", "A", "a", set(), ""),
        ("Bob", "B", "b", set(), ""),
        ("a's", "A", "a", set(), ""),
        ("b\u2019s", "B", "b", set(), ""),
        ("(A) or (B)", "A", "a", {"A", "B"}, ""),
        ("(C)", "C", "c", set(), ""),
        ("2", "", "2", set(), ""),
        ("", "", "", set(), ""),
        ("**B**", "", "*", {"B"}, "B"),
        ("`B`", "", "`", {"B"}, "B"),
        ("_B_", "", "_", {"B"}, "B"),
        ("<b>B</b>", "", "<", {"B"}, "B"),
        ("[B]", "", "[", {"B"}, "B"),
        ("\\boxed{B}", "", "\\", {"B"}, "B"),
        ("\u201cB\u201d", "", "\u201c", {"B"}, "B"),
        ("'B'", "", "'", {"B"}, "B"),
        ("\uff22", "", "\uff42", {"B"}, "B"),
        ("\uff08B\uff09", "", "\uff08", {"B"}, "B"),
        ("\u200bB\u200b", "", "\u200b", {"B"}, "B"),
        ("Final answer: **(B)** right", "F", "*", {"B"}, "B"),
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
    assert cambrian_letter(text) == scripts_of_cambrian(text, ".")[:1]
    assert cambrian_option(text) == scripts_of_cambrian(text, ".:,")


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "({}) left"]))
def test_usual_forms_are_read(letter: str, form: str) -> None:
    assert parse_letter(form.format(letter), "ABCD") == letter
