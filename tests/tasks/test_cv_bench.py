"""CV-Bench: letters, and the official aggregate beside the pooled one."""

from pathlib import Path

import pytest
from tasks.published import CV_BENCH_ROWS, picture, scores, write_jsonl

from adaptvis.errors import DataError
from adaptvis.tasks import get_task


def write(folder: Path) -> Path:
    for part, rows in CV_BENCH_ROWS.items():
        write_jsonl(folder / f"test_{part}.jsonl", rows)
        for row in rows:
            picture(folder / row["filename"])
    return folder


def test_questions(tmp_path: Path) -> None:
    data = write(tmp_path)
    samples = get_task("cv-bench-2d", data=data).load(part="all")
    assert samples[1].prompt == (
        "Which? Select from the following choices.\n(A) 3\n(B) 4\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert samples[0].candidates == ("(A)", "(B)", "(C)")
    assert [s.category for s in samples] == ["Count", "Count", "Relation", "Relation"]
    assert samples[0].image_id == samples[1].image_id == "original-0.jpg"
    assert samples[3].images()[0].size == (8, 6)
    assert len(get_task("cv-bench-3d", data=data).load(part="all")) == 2
    assert len(get_task("cv-bench", data=data).load(part="all")) == 6


@pytest.mark.parametrize(
    ("text", "correct", "strict"),
    [
        ("(C)", True, True),
        ("C", True, True),
        ("C.", True, True),
        ("The answer is (C).", True, True),
        ("c", True, True),
        ("(c)", True, True),
        ("Answer: C", True, True),
        ("The Answer is C", True, True),
        ("The answer is: C", False, True),  # the parser finds ": c"
        ("Answer: A", False, False),
        ("**C**", False, True),  # it knows no mark-up
        ("(C) 2", True, True),
        ("Chairs: two", True, False),  # it reads one character
        ("(A) or (C)", False, False),
        ("2", False, False),
        ("", False, False),
    ],
)
def test_rules(tmp_path: Path, text: str, correct: bool, strict: bool) -> None:
    task = get_task("cv-bench-2d", data=write(tmp_path))
    grade = task.grade(task.load(part="all")[0], text)
    assert (grade.correct, grade.strict) == (correct, strict)


def test_aggregates_by_hand(tmp_path: Path) -> None:
    """ADE20K 2 of 3, COCO 0 of 1: 2D is (2/3 + 0) / 2 = 1/3; Omni3D 1 of 2; whole (1/3 + 1/2) / 2.

    Pooled 3 of 6. lmms-eval's parser reads the "T" of the second question as the letter: 3 of 6.
    """
    task = get_task("cv-bench", data=write(tmp_path))
    samples = task.load(part="all")
    found = scores(task, samples, ["(C)", "The (A)", "(B)", "(B)", "A", "A"])
    assert found == pytest.approx(
        {
            "accuracy_count": 1 / 2,
            "accuracy_relation": 1 / 2,
            "accuracy_depth": 1.0,
            "accuracy_distance": 0.0,
            "accuracy_ade20k": 2 / 3,
            "accuracy_coco": 0.0,
            "accuracy_omni3d": 1 / 2,
            "official_2d": 1 / 3,
            "official_3d": 1 / 2,
            "official": 5 / 12,
            "pooled": 1 / 2,
            "lmms_eval_pooled": 3 / 6,
        }
    )
    flat = get_task("cv-bench-2d", data=tmp_path)
    assert "official" not in scores(flat, samples[:4], ["(C)"] * 4)


def test_an_answer_that_is_no_option(tmp_path: Path) -> None:
    write(tmp_path)
    row = {**CV_BENCH_ROWS["3d"][0], "answer": "(F)"}
    write_jsonl(tmp_path / "test_3d.jsonl", [row])
    with pytest.raises(DataError, match=r"line 1: the answer '\(F\)' is not among .* \(A\) \(B\)"):
        get_task("cv-bench-3d", data=tmp_path).load()
