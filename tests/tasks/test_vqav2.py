"""VQAv2: the official normalisation with its bugs, and leave-one-out soft accuracy."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks.published import picture, records, scores, write_json

from adaptvis.errors import DataError
from adaptvis.tasks import get_task
from adaptvis.tasks.vqa_normalisation import normalise_answer, plain_answer, soft_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog", "dog"),
        ("dont know", "don't know"),
        ("two", "2"),
        ("none", "0"),
        ("a a an the", ""),
        ("red-blue", "red blue"),  # a mark without a blank beside it becomes one
        ("red - blue", "red blue"),  # with one, it is removed
        ("well-known - yes", "wellknown yes"),  # everywhere in the text
        ("1,000", "1000"),  # a comma between digits removes every mark of the text
        ("1,000 red-blue", "1000 redblue"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        # The misspelt look-behind: meant to keep the period of "3.", it keeps none.
        ("3.", "3"),
        ("e.g. this", "eg this"),
        ("what?", "what"),
        ("I'm", "i'm"),
        ("Im", "im"),  # the map's key has a capital and cannot match
        ("somebody'd", "somebodyd"),
        # re.UNICODE, 32, stands where the count belongs: the 33rd period stays.
        ("a" + "." * 33 + "b", "a.b"),
        ("a" + "." * 32 + "b", "ab"),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


def test_only_blanks_are_touched_where_all_humans_agree() -> None:
    assert plain_answer("\n two\tdogs ") == "two dogs"
    assert soft_accuracy("two", ["2"] * 10) == 0.0
    assert soft_accuracy("two", ["two"] * 10) == 1.0
    assert soft_accuracy("Two", ["two"] * 10) == 0.0
    # One dissenter, and both sides are normalised.
    assert soft_accuracy("Two", ["2"] * 9 + ["3"]) == 1.0


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)
def test_soft_accuracy_leaves_one_human_out(matches: int, expected: float) -> None:
    """With 3 matches: left out is one of them 3 times (2/3 each) and another 7 times (1 each)."""
    answers = ["cat"] * matches + ["dog"] * (10 - matches)
    assert soft_accuracy("a cat", answers) == pytest.approx(expected)


@given(st.text())
def test_normalisation_never_fails(text: str) -> None:
    once = normalise_answer(text)
    assert once == " ".join(once.split())
    assert not {"a", "an", "the"} & set(once.split())


@given(st.text(), st.lists(st.text(), min_size=10, max_size=10))
def test_soft_accuracy_has_six_values(text: str, answers: list[str]) -> None:
    assert round(soft_accuracy(text, answers), 9) in (0.0, 0.3, 0.6, 0.9, 1.0)


def annotation(number: int, kind: str, answers: list[str]) -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": 42,
        "question_type": "what is",
        "answer_type": kind,
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": a, "answer_confidence": "yes", "answer_id": i + 1}
            for i, a in enumerate(answers)
        ],
    }


ANNOTATIONS = [
    annotation(420, "other", ["cat"] * 3 + ["dog"] * 7),
    annotation(421, "yes/no", ["yes"] * 10),
    annotation(422, "number", ["2"] * 8 + ["3"] * 2),
    annotation(423, "other", ["net"] * 10),
]


def write(folder: Path, annotations: Any = ANNOTATIONS) -> Path:
    questions = [
        {"image_id": 42, "question": "What is it?", "question_id": 420 + i} for i in range(4)
    ]
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    picture(folder / "val2014/COCO_val2014_000000000042.jpg")
    return folder


def test_questions_are_joined_with_their_annotations(tmp_path: Path) -> None:
    samples = get_task("vqav2", data=write(tmp_path, ANNOTATIONS[::-1])).load(part="all")
    assert [s.id for s in samples] == ["vqav2-420", "vqav2-421", "vqav2-422", "vqav2-423"]
    assert samples[0].gold == ("cat",) * 3 + ("dog",) * 7
    assert samples[0].prompt == ("What is it?\nAnswer the question using a single word or phrase.")
    assert samples[1].category == "yes/no"
    assert samples[0].images()[0].size == (8, 6)


def test_scores_by_hand(tmp_path: Path) -> None:
    """0.9 for three cats, 1 for "yes", 0.6 for two threes; 0 for "Net", where all ten say "net"."""
    task = get_task("vqav2", data=write(tmp_path))
    samples = task.load(part="all")
    said = ["The cat.", "yes", "three", "Net"]
    found = records(task, samples, said)
    assert [r.score for r in found] == pytest.approx([0.9, 1.0, 0.6, 0.0])
    assert [r.correct for r in found] == [True, True, False, False]
    assert [r.strict for r in found] == [True, True, False, True]
    assert scores(task, samples, said) == pytest.approx(
        {
            "vqa_accuracy": 2.5 / 4,
            "vqa_accuracy_other": 0.45,
            "vqa_accuracy_yes_no": 1.0,
            "vqa_accuracy_number": 0.6,
        }
    )


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (ANNOTATIONS[:3], "question 423 has no annotation"),
        ({}, "a list of objects under 'annotations'"),
        ([{**ANNOTATIONS[0], "answers": []}, *ANNOTATIONS[1:]], "annotations[0]: answers must be"),
        ([{**ANNOTATIONS[0], "answers": [3]}, *ANNOTATIONS[1:]], "annotations[0]: answers must be"),
    ],
)
def test_bad_files(tmp_path: Path, annotations: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        get_task("vqav2", data=write(tmp_path, annotations)).load()
    assert message in str(caught.value)
