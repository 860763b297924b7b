"""`adaptvis reproduce` on a published row over a generated task, with a real model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli.models import SHORTCUT, embedded_models
from adaptvis.evaluation import read_records
from adaptvis.evaluation.published import PUBLISHED, Published
from adaptvis.presets import load_model_presets

TASK = "2ds-prior-conflicting"


@pytest.fixture(autouse=True)
def _our_row(monkeypatch: pytest.MonkeyPatch) -> None:
    # The README's figures of the embedded model, as if they had been published.
    config = load_model_presets(embedded_models()[SHORTCUT])["scalingvis"]
    shared = {"source": "README", "task": TASK, "model": SHORTCUT, "prompts": "chat"}
    for name, value, own in (("base", 35.5, None), ("scalingvis", 51.4, config)):
        row = Published(
            f"{name}-tiny", values={"accuracy": value}, config=own, notes=("a note",), **shared
        )
        monkeypatch.setitem(PUBLISHED, row.name, row)


def test_a_row_is_run_and_compared(adaptvis: Adaptvis) -> None:
    run = ("reproduce", "scalingvis-tiny", "--limit", 150, "--batch-size", 50, "-o", "out")
    result = adaptvis(*run)
    assert result.code == 0, result.err
    records = read_records(Path("out/records.jsonl"))
    assert [r.method for r in records[:2]] == ["baseline", "scalingvis"]
    assert len(records) == 300
    stored = json.loads(Path("out/comparison.json").read_text())
    baseline, steered = stored["comparisons"]
    assert (baseline["published"], steered["published"]) == (35.5, 51.4)
    for comparison in (baseline, steered):
        own = [r.correct for r in records if r.method == comparison["method"]]
        assert comparison["ours"] == pytest.approx(100 * sum(own) / 150)
        assert comparison["low"] < comparison["ours"] < comparison["high"]
    # The same weights and questions: the README's figures lie in our interval.
    assert baseline["agrees"]
    assert steered["agrees"]
    assert stored["differs"] == ["only 150 questions"]
    for words in ("scalingvis-tiny: README", "51.4", "Our paired gain in accuracy", "in the int"):
        assert words in result.out
    assert "note: a note" in result.err
    assert "not the published run: only 150 questions" in result.err

    again = adaptvis(*run, "--resume")
    assert again.code == 0, again.err
    assert_one_sentence(adaptvis(*run), "already holds results")


def test_without_an_output_resume_goes_on_in_the_last_folder(adaptvis: Adaptvis) -> None:
    run = ("reproduce", "base-tiny", "--limit", 4, "--batch-size", 2)
    assert adaptvis(*run).code == 0
    folder = Path("adaptvis-reproduction-base-tiny")
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:2]))
    assert adaptvis(*run, "--resume").code == 0
    assert (folder / "records.jsonl").read_bytes() == b"".join(lines)
    assert [p.name for p in Path().iterdir()] == [folder.name]


def test_another_checkpoint_is_named_as_a_difference(
    adaptvis: Adaptvis, model_folder: Path
) -> None:
    result = adaptvis("reproduce", "base-tiny", "-m", model_folder, "--limit", 4, "-o", "out")
    assert result.code == 0, result.err
    stored = json.loads(Path("out/comparison.json").read_text())
    assert stored["differs"][0] == f"model random-tiny instead of {SHORTCUT}"
    assert len(stored["comparisons"]) == 1


def test_where_every_question_failed_there_is_nothing_to_compare(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = PUBLISHED["scalingvis-tiny"]
    for name in ("scalingvis-mine", "base-mine"):
        config = row.config if name.startswith("scaling") else None
        mine = replace(row, name=name, task="mine.jsonl", config=config)
        monkeypatch.setitem(PUBLISHED, name, mine)
    entry = {"image": "gone.png", "question": "Where?", "answer": "left"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(entry))
    for name in ("scalingvis-mine", "base-mine"):
        result = adaptvis("reproduce", name, "-o", name)
        assert result.code == 2
        assert "Traceback" not in result.err
        sentence = result.err.splitlines()[-1]
        assert sentence.startswith("error: No question of the task mine could be asked")
        assert sentence.endswith("gone.png does not exist")
        assert Path(name, "records.jsonl").is_file()


def test_the_list_says_what_can_be_run_and_why_not(adaptvis: Adaptvis) -> None:
    result = adaptvis("reproduce", "--list")
    assert result.code == 0
    assert adaptvis("reproduce").out == result.out
    assert "adaptvis-llava-1.5-controlled_a" in result.out
    assert "no coefficients or thresholds were published for LLaVA-1.6" in result.out
    assert "84.9" in result.out
    words = " ".join(result.out.split())
    assert "normalize_multilayer-llava-1.5-vqav2 (79.17*)" in words
    assert "0.5 below logit 0.64, else 1.2" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adaptvis-llava-1.6-vsr"], ["cannot be reproduced", "no coefficients"]),
        (["base-llava-1.6-vsr"], ["names no checkpoint", "--model"]),
        (["base-llava-1.5-2ds"], ["published questions of 2ds", "--data"]),
        (["base-tinny"], ["Unknown row", "did you mean 'base-tiny'"]),
        (["base-tiny", "--part", "tests"], ["Unknown part", "did you mean 'test'?"]),
        (["base-tiny", "--dtype", "half"], ["Unknown dtype"]),
        (["base-tiny", "--prompts", "row"], ["Unknown prompts", "raw"]),
        (["base-tiny", "--model", "nowhere"], ["Unknown model"]),
    ],
)
def test_bad_values(adaptvis: Adaptvis, arguments: list[str], words: list[str]) -> None:
    assert_one_sentence(adaptvis("reproduce", *arguments), *words)
    assert not list(Path().glob("adaptvis-reproduction*"))
