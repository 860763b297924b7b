"""GQA: exact match as LLaVA's script prepares it, open and binary questions."""

from pathlib import Path
from typing import Any

import pytest
from tasks.published import picture, scores, write_json

from adaptvis.errors import DataError
from adaptvis.tasks import get_task

QUESTIONS: dict[str, Any] = {
    "201": {
        "question": "Is it overcast?",
        "imageId": "n161313",
        "answer": "no",
        "fullAnswer": "No, it is clear.",
        "isBalanced": True,
        "types": {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"},
    },
    "202": {
        "question": "Who is wearing the dress?",
        "imageId": "n161313",
        "answer": "woman",
        "types": {"structural": "query", "semantic": "rel", "detailed": "relS"},
    },
    "203": {
        "question": "What is it made of?",
        "imageId": "n2",
        "answer": "stainless steel",
        "types": {"structural": "query", "semantic": "attr", "detailed": "material"},
    },
}


def write(folder: Path, questions: Any = QUESTIONS) -> Path:
    write_json(folder / "testdev_balanced_questions.json", questions)
    for name in ("n161313", "n2"):
        picture(folder / f"images/{name}.jpg")
    return folder


def test_questions(tmp_path: Path) -> None:
    samples = get_task("gqa", data=write(tmp_path)).load(part="all")
    assert [s.id for s in samples] == ["gqa-201", "gqa-202", "gqa-203"]
    assert samples[1].prompt == (
        "Who is wearing the dress?\nAnswer the question using a single word or phrase."
    )
    assert [s.category for s in samples] == ["verify", "query", "query"]
    assert samples[0].image_id == samples[1].image_id == "n161313"
    assert samples[2].images()[0].size == (8, 6)


@pytest.mark.parametrize(
    ("text", "correct", "strict"),
    [
        ("woman", True, True),
        ("Woman.", True, True),
        ("WOMAN...", True, True),
        (" woman", False, True),  # blanks are not cut
        ("the woman", False, True),
        ("woman!", False, True),
        ("a woman in red", False, False),
        ("women", False, False),
    ],
)
def test_rules(tmp_path: Path, text: str, correct: bool, strict: bool) -> None:
    task = get_task("gqa", data=write(tmp_path))
    grade = task.grade(task.load(part="all")[1], text)
    assert (grade.correct, grade.strict) == (correct, strict)


def test_metrics_by_hand(tmp_path: Path) -> None:
    task = get_task("gqa", data=write(tmp_path))
    samples = task.load(part="all")
    assert scores(task, samples, ["Yes", "Woman.", "steel"]) == {
        "open_accuracy": 1 / 2,
        "binary_accuracy": 0.0,
    }


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "expected an object of questions by id"),
        ({"1": []}, "question 1: expected an object, got list"),
        ({"1": {"question": "?", "imageID": "a"}}, "missing; did you mean 'imageID'?"),
        ({"1": {"question": "?", "imageId": "../../a", "answer": "x"}}, "outside the folder"),
        ({}, "There is no question in GQA"),
    ],
)
def test_bad_files(tmp_path: Path, questions: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        get_task("gqa", data=write(tmp_path, questions)).load()
    assert message in str(caught.value)
