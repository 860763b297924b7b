"""VSR: the published prompt and rules, and both kinds of precision, recall and F1."""

from pathlib import Path
from typing import Any

import pytest
from tasks.published import picture, scores, write_jsonl

from adaptvis.errors import DataError
from adaptvis.tasks import get_task

LINE = {
    "image": "000000017697.jpg",
    "image_link": "http://images.cocodataset.org/train2017/000000017697.jpg",
    "caption": "The car is behind the suitcase.",
    "label": 1,
    "relation": "behind",
    "subj": "car",
    "obj": "suitcase",
    "annotator_id": 2,
    "vote_true_validator_id": "[18, 2]",
    "vote_false_validator_id": "[1]",
}


def write(folder: Path, *changes: dict[str, Any]) -> Path:
    write_jsonl(folder / "test.jsonl", ({**LINE, **change} for change in changes))
    picture(folder / "train2017/000000017697.jpg")
    return folder


def test_prompt_and_stretched_picture(tmp_path: Path) -> None:
    data = write(tmp_path, {}, {"label": 0})
    first, second = get_task("vsr", data=data).load(part="all")
    assert first.raw_prompt == (
        "User: <image>\n Determine whether the description about the spatial relationship is "
        "correct or not. Answer with yes or no: The car is behind the suitcase. Assistant:"
    )
    assert first.prompt == (
        "Determine whether the description about the spatial relationship is correct or not. "
        "Answer with yes or no: The car is behind the suitcase."
    )
    assert (first.gold, second.gold, first.category) == (("Yes",), ("No",), "behind")
    assert first.images()[0].size == (2300, 4096)
    natural = get_task("vsr-unresized", data=data).load(part="all")
    assert natural[0].images()[0].size == (8, 6)


@pytest.mark.parametrize(
    ("label", "text", "correct", "strict"),
    [
        (1, "Yes", True, True),
        (1, "yes", False, True),  # case counts in the published rule
        (1, "Yes and No", True, False),
        (0, "Yes and No", True, False),
        (0, "No", True, True),
        (0, "no.", False, True),
        (0, "None of it", True, False),
        (0, "Not sure", True, False),
        (1, "", False, False),
    ],
)
def test_rules(tmp_path: Path, label: int, text: str, correct: bool, strict: bool) -> None:
    task = get_task("vsr", data=write(tmp_path, {"label": label}))
    (sample,) = task.load(part="all")
    grade = task.grade(sample, text)
    assert (grade.correct, grade.strict) == (correct, strict)


def test_metrics_by_hand(tmp_path: Path) -> None:
    """Labels 1 1 1 1 0 0; right: three of the four true ones, one of the two false ones.

    TP 3, FN 1, TN 1, FP 1: precision 3/4, recall 3/4, F1 3/4. True rate 3/4, false rate 1/2, their
    harmonic mean 2 * 0.375 / 1.25 = 0.6.
    """
    task = get_task("vsr", data=write(tmp_path, *({"label": n} for n in (1, 1, 1, 1, 0, 0))))
    samples = task.load(part="all")
    found = scores(task, samples, ["Yes", "Yes", "Yes", "No", "No", "Yes"])
    assert found == pytest.approx(
        {
            "precision": 0.75,
            "recall": 0.75,
            "f1": 0.75,
            "reference_precision": 0.75,
            "reference_recall": 0.5,
            "reference_f1": 0.6,
        }
    )
    nothing = scores(task, samples, [""] * 6)
    assert nothing["reference_f1"] == nothing["f1"] == 0.0


def test_split_sizes(tmp_path: Path) -> None:
    task = get_task("vsr", data=write(tmp_path, *({} for _ in range(1222))))
    assert [len(task.load(part=p)) for p in ("validation", "test")] == [244, 978]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "line 1: label must be 0 or 1"),
        ({"label": "yes"}, "line 1: label must be a whole number"),
        ({"image_link": "ftp://x"}, "line 1: image_link 'ftp://x' is not a COCO address"),
        ({"image_link": "http://x.org/../../etc/x"}, "lies outside the folder"),
        ({"image_link": "http://x.org//etc/passwd"}, "lies outside the folder"),
        ({"caption": " "}, "line 1: caption must be a non-empty text"),
    ],
)
def test_bad_lines(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        get_task("vsr", data=write(tmp_path / "vsr", change)).load()
    assert message in str(caught.value)
