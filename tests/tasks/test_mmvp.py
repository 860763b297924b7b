"""MMVP: letters, pairs, and the four swapped labels."""

from pathlib import Path

import pytest
from tasks.published import MMVP_ROWS, picture, scores, write_csv

from adaptvis.errors import DataError
from adaptvis.tasks import get_task


def write(folder: Path) -> Path:
    write_csv(folder / "Questions.csv", MMVP_ROWS)
    for row in MMVP_ROWS:
        picture(folder / f"MMVP Images/{row['Index']}.jpg")
    return folder


def test_questions_with_commas_and_pairs(tmp_path: Path) -> None:
    samples = get_task("mmvp", data=write(tmp_path)).load(part="all")
    assert samples[0].prompt == (
        "Are the wings open, or closed? (a) Open (b) Closed\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [s.tags["pair"] for s in samples] == ["1", "1", "2", "2", "50", "50"]
    assert samples[5].images()[0].size == (8, 6)


def test_the_corrected_task_swaps_labels_of_known_rows_only(tmp_path: Path) -> None:
    data = write(tmp_path)
    filed, corrected = (
        get_task(name, data=data).load(part="all") for name in ("mmvp", "mmvp-corrected")
    )
    assert [s.gold[0] for s in filed] == ["(a)", "(b)"] * 3
    assert [s.gold[0] for s in corrected] == ["(a)", "(b)"] * 2 + ["(b)", "(a)"]
    assert get_task("mmvp", data=data).source != get_task("mmvp-corrected", data=data).source


def test_a_pair_counts_only_whole(tmp_path: Path) -> None:
    """Right are both of the first pair and one of each other: 1 of 3 pairs; half a pair is none.

    Cambrian's grader takes the letter or the text, but not "(a) Open", which has both.
    """
    task = get_task("mmvp", data=write(tmp_path))
    samples = task.load(part="all")
    said = ["(a) Open", "B", "A", "a", "The answer is A.", "(a)"]
    assert scores(task, samples, said) == {
        "pair_accuracy": 1 / 3,
        "cambrian_pair_accuracy": 0.0,
    }
    half = scores(task, samples[:3], ["open", "answer: b.", "A"])
    assert half == {"pair_accuracy": 1.0, "cambrian_pair_accuracy": 1.0}
    assert scores(task, samples[:1], said[:1]) == {}


@pytest.mark.parametrize(
    ("text", "correct", "strict"),
    [
        ("a", True, True),
        ("A) Open", True, True),
        ("(a) or (b)", False, False),
        ("(a) and not (b)", False, False),
        ("A butterfly", False, False),  # an article
        ("A closed butterfly", False, False),
        ("An open butterfly", True, True),
        ("Both", False, False),
        ("Open", True, True),
        ("open.", True, True),
        ("Open or closed", False, False),
        ("(a) Closed", True, False),  # the letter comes first, and the text belongs to the other
        ("Not reopened", False, False),
        ("", False, False),
    ],
)
def test_rules(tmp_path: Path, text: str, correct: bool, strict: bool) -> None:
    task = get_task("mmvp", data=write(tmp_path))
    grade = task.grade(task.load(part="all")[0], text)
    assert (grade.correct, grade.strict) == (correct, strict)


@pytest.mark.parametrize("text", ["Closed", "closed.", "answer: b.", "A closed butterfly", "(B)"])
def test_the_text_of_an_option_counts_as_its_letter_does(tmp_path: Path, text: str) -> None:
    task = get_task("mmvp", data=write(tmp_path))
    open_, closed = (task.grade(sample, text) for sample in task.load(part="all")[:2])
    assert (open_.correct, open_.strict) == (False, False)
    assert (closed.correct, closed.strict) == (True, True)


def test_an_option_whose_text_is_within_the_others(tmp_path: Path) -> None:
    rows = [{**MMVP_ROWS[0], "Options": "(a) One (b) One and\na half"}]
    write_csv(tmp_path / "Questions.csv", rows)
    (tmp_path / "MMVP Images").mkdir()
    (sample,) = get_task("mmvp", data=tmp_path).load(part="all")
    task = get_task("mmvp", data=tmp_path)
    assert (sample.tags["(a)"], sample.tags["(b)"]) == ("One", "One and\na half")
    assert task.grade(sample, "There is one").strict
    assert not task.grade(sample, "One and a half").correct


def test_the_misspelt_header_of_a_published_revision(tmp_path: Path) -> None:
    """`lndex`, with a small L, as Cambrian's reader expects beside `Index`."""
    path = write(tmp_path) / "Questions.csv"
    path.write_text(path.read_text().replace("Index", "lndex"))
    assert [s.id for s in get_task("mmvp", data=tmp_path).load(part="all")][:2] == [
        "mmvp-001",
        "mmvp-002",
    ]


def test_pairs_stay_together_unless_single_questions_are_asked_for(tmp_path: Path) -> None:
    rows = [{**MMVP_ROWS[0], "Index": i} for i in range(1, 301)]
    write_csv(tmp_path / "Questions.csv", rows)
    (tmp_path / "MMVP Images").mkdir()
    shared = {}
    for split in (None, "grouped", "reference"):
        task = get_task("mmvp", data=tmp_path, split=split)
        parts = [task.load(part=part) for part in ("validation", "test")]
        assert [len(samples) for samples in parts] == [60, 240]
        pairs = [{s.tags["pair"] for s in samples} for samples in parts]
        shared[split] = bool(pairs[0] & pairs[1])
    assert shared == {None: False, "grouped": False, "reference": True}


def test_bad_rows(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "Questions.csv"
    whole = path.read_text()
    path.write_text(whole.replace("(b)\n", "(c)\n", 1))
    with pytest.raises(DataError, match=r"line 3: Correct Answer must be one of \(a\), \(b\)"):
        get_task("mmvp", data=tmp_path).load()
    path.write_text(whole.replace("Correct Answer", "Answer"))
    with pytest.raises(DataError, match="'Correct Answer' is missing; did you mean 'Answer'"):
        get_task("mmvp", data=tmp_path).load()
