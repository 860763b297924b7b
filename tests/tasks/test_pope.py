"""POPE: the first-sentence parser and its metrics."""

from pathlib import Path

import pytest
from tasks.published import picture, scores, write_jsonl

from adaptvis.errors import DataError
from adaptvis.tasks import get_task
from adaptvis.tasks.pope import parse_pope


def write(folder: Path, labels: list[str]) -> Path:
    rows = [
        {
            "question_id": i + 1,
            "image": f"COCO_val2014_{i // 6:012d}.jpg",
            "text": "Is there a snowboard in the image?",
            "label": label,
        }
        for i, label in enumerate(labels)
    ]
    write_jsonl(folder / "coco_pope_popular.json", rows)
    picture(folder / "val2014/COCO_val2014_000000000000.jpg")
    return folder


def test_questions(tmp_path: Path) -> None:
    task = get_task("pope-popular", data=write(tmp_path, ["yes", "no"]))
    first, second = task.load(part="all")
    assert first.prompt == (
        "Is there a snowboard in the image?\nAnswer the question using a single word or phrase."
    )
    assert (first.raw_prompt, first.gold, second.gold) == (None, ("yes",), ("no",))
    assert first.image_id == second.image_id
    assert first.images()[0].mode == "RGB"


@pytest.mark.parametrize(
    ("text", "word", "strict"),
    [
        ("Yes", "yes", True),
        ("No", "no", True),
        ("No, there is not.", "no", True),
        ("There is no snowboard", "no", True),
        ("There is not.", "no", False),
        ("Yes. There is no other.", "yes", False),  # only the first sentence is read
        ("There are none", "yes", False),
        ("NO", "yes", True),  # the parser knows No, not and no
        ("Nope", "yes", False),
        ("I see it\nno", "yes", True),  # words are split at blanks, not at line ends
        ("", "yes", False),
    ],
)
def test_the_official_parser_and_the_strict_rule(
    tmp_path: Path, text: str, word: str, strict: bool
) -> None:
    assert parse_pope(text) == word
    label = "yes" if word == "yes" and text not in ("NO", "I see it\nno") else "no"
    task = get_task("pope-popular", data=write(tmp_path, [label]))
    grade = task.grade(task.load(part="all")[0], text)
    assert (grade.correct, grade.strict) == (word == label, strict)


def test_metrics_by_hand(tmp_path: Path) -> None:
    """Labels y y y n n n, said y y n y n n: TP 2, FP 1, FN 1, TN 2; three of six said yes."""
    task = get_task("pope-popular", data=write(tmp_path, ["yes"] * 3 + ["no"] * 3))
    samples = task.load(part="all")
    found = scores(task, samples, ["Yes", "yes", "No", "Yes", "no", "not there"])
    third = 2 / 3
    assert found == pytest.approx(
        {"accuracy": third, "precision": third, "recall": third, "f1": third, "yes_ratio": 0.5}
    )
    # The share of predictions, not of labels.
    assert scores(task, samples, ["No"] * 6)["yes_ratio"] == 0.0
    assert scores(task, samples, ["No"] * 6)["f1"] == 0.0


def test_parts_share_no_picture_unless_single_questions_are_asked_for(tmp_path: Path) -> None:
    data = write(tmp_path, ["yes"] * 60)
    shared = {}
    for split in (None, "grouped", "reference"):
        task = get_task("pope-popular", data=data, split=split)
        validation, test = (task.load(part=part) for part in ("validation", "test"))
        assert (len(validation), len(test)) == (12, 48)
        shared[split] = len({s.image_id for s in validation} & {s.image_id for s in test})
    assert shared[None] == shared["grouped"] == 0
    assert shared["reference"] > 0


def test_an_unknown_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: label must be one of yes, no, got 'maybe'"):
        get_task("pope-popular", data=write(tmp_path, ["yes", "maybe"])).load()
