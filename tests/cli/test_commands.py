"""The commands on a real model."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence
from PIL import Image

from adaptvis.cli.models import CONVERGED, SHORTCUT
from adaptvis.evaluation import read_records
from adaptvis.presets import load_model_presets
from adaptvis.tasks import Task, get_task


def test_help_and_version(adaptvis: Adaptvis) -> None:
    from adaptvis import __version__

    assert adaptvis("--version").out.strip() == __version__
    text = adaptvis("--help").out
    commands = (
        "eval",
        "report",
        "tasks",
        "tune",
        "reproduce",
        "train",
        "convert",
        "serve",
        "doctor",
    )
    for command in commands:
        assert re.search(rf"^\W*{command}  ", text, re.MULTILINE), command
        assert "Usage: " in adaptvis(command, "--help").out
    text = " ".join(adaptvis("eval", "--help").out.split())
    assert all(words in text for words in ("--resume", "report.html", "95 % intervals", "MMVP"))
    assert "Wilson" not in text


def test_tasks_lists_every_task(adaptvis: Adaptvis) -> None:
    result = adaptvis("tasks")
    assert result.code == 0
    for name in ("2ds", "2ds-prior-balanced", "2ds-prior-conflicting", "2ds-prior-skewed"):
        assert name in result.out
    for name in ("controlled_a", "vg_two", "vsr", "pope-adversarial", "vqav2", "cv-bench-3d"):
        assert name in result.out
    assert "214354" in result.out
    assert '"options": ["left", "right"]' in result.out


def test_tasks_says_what_one_needs(adaptvis: Adaptvis) -> None:
    result = adaptvis("tasks", "controlled_b")
    assert result.code == 0
    assert "data/controlled_clevr_dataset.json: from Google Drive id 1unNNosLbdy9N" in result.out
    assert "$ADAPTVIS_DATA/whatsup" in result.out
    assert "hf:ServiceNow/whatsup_all" in result.out
    assert "nothing to download" in adaptvis("tasks", "2ds").out
    published = " ".join(adaptvis("tasks", "vsr").out.split())
    assert "--preset scalingvis-vsr, adaptvis-vsr, adaptvis-vsr-reference." in published
    assert "the authors' code compares the largest raw logit" in published
    unknown = adaptvis("tasks", "controled_b")
    assert unknown.code == 2
    assert "did you mean 'controlled_b'?" in unknown.err


def test_train_lists_its_recipes(adaptvis: Adaptvis) -> None:
    assert "tiny-2ds-shortcut" in adaptvis("train", "--list").out


def test_eval_writes_everything_and_resumes(adaptvis: Adaptvis, model_folder: Path) -> None:
    run = (
        *("eval", "-m", model_folder, "-t", "2ds", "--limit", 18, "--batch-size", 6, "-o", "out"),
        *("--method", "baseline", "--method", '{"method": "scalingvis", "alpha": 3}'),
        *("--preset", "adaptvis-vsr", "--preset", "adaptvis-vsr-reference"),
    )
    result = adaptvis(*run)
    assert result.code == 0, result.err
    assert "note: adaptvis-vsr has the published numbers under the paper's rule" in result.err
    folder = Path("out")
    whole = (folder / "records.jsonl").read_bytes()
    records = read_records(folder / "records.jsonl")
    assert len(records) == 18 * 4
    methods = ["baseline", "scalingvis alpha=3.0", "adaptvis-vsr", "adaptvis-vsr-reference"]
    assert [r.method for r in records[:4]] == methods
    by_method = {m: [r for r in records if r.method == m] for m in methods}
    assert {r.alpha for r in by_method[methods[1]]} == {3.0}
    assert {r.alpha for r in by_method[methods[2]]} <= {0.5, 1.2}
    for record in by_method[methods[2]]:
        assert record.alpha == (0.5 if record.confidence < 0.64 else 1.2)
    assert all(r.applied for r in records if r.method != "baseline")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["run"]["limit"] == 18
    described = summary["engines"]["random-tiny"]
    assert described["transformers"]
    # Pillow's, also where torchvision is installed, whose pixels differ.
    assert (described["image_processor"], described["image_backend"]) == (
        "CLIPImageProcessorPil",
        "pil",
    )
    with Image.open(folder / "accuracy_by_objects.png") as image:
        assert image.format == "PNG"
    for expected in ("random-tiny on 2ds", "too few images to tell", "Overview", "72 answers"):
        assert expected in result.out

    (folder / "records.jsonl").write_bytes(whole[: len(whole) // 2])
    assert adaptvis(*run).code == 2
    changed = adaptvis(*run, "--resume", "--dtype", "bfloat16")
    assert 'dtype was "auto", now "bfloat16"' in changed.err
    elsewhere = os.path.relpath(model_folder)
    assert elsewhere != str(model_folder)
    assert (
        adaptvis(*(elsewhere if part == model_folder else part for part in run), "--resume").code
        == 0
    )
    assert (folder / "records.jsonl").read_bytes() == whole


def test_default_outputs_do_not_collide(adaptvis: Adaptvis, model_folder: Path) -> None:
    run = ("eval", "-m", model_folder, "-t", "2ds", "--limit", 2, "--method", "baseline")
    assert adaptvis(*run).code == 0
    assert adaptvis(*run).code == 0
    assert Path("adaptvis-results/records.jsonl").is_file()
    assert Path("adaptvis-results-2/records.jsonl").is_file()


def test_a_model_without_settings_says_which_ones_it_gets(
    adaptvis: Adaptvis, model_folder: Path
) -> None:
    result = adaptvis("eval", "-m", model_folder, "-t", "2ds", "--limit", 2, "-o", "out")
    assert "scalingvis-controlled_a, published for LLaVA-1.5" in result.err


@pytest.mark.parametrize("name", [CONVERGED, SHORTCUT])
def test_the_embedded_models_see_what_they_were_trained_on(adaptvis: Adaptvis, name: str) -> None:
    result = adaptvis(
        *("eval", "-m", name, "-t", "2ds", "--limit", 90, "--method", "baseline", "-o", "out")
    )
    assert result.code == 0, result.err
    records = read_records(Path("out/records.jsonl"))
    accuracy = sum(r.correct for r in records) / len(records)
    # chance is about a quarter; the shortcut model keeps half of what the other one knows
    assert accuracy > (0.85 if name == CONVERGED else 0.35)
    assert {"scalingvis", "adaptvis"} <= set(_presets(name))


def _presets(name: str) -> dict[str, object]:
    from adaptvis.cli.models import embedded_models

    return dict(load_model_presets(embedded_models()[name]))


def test_eval_says_which_questions_failed(
    adaptvis: Adaptvis, model_folder: Path, tmp_path: Path
) -> None:
    entries = []
    for index in range(6):
        Image.new("RGB", (64, 64), (40 * index, 0, 0)).save(tmp_path / f"{index}.png")
        entries.append({"image": f"{index}.png", "question": "Where?", "answer": "left"})
    mine = tmp_path / "mine.jsonl"
    mine.write_text("\n".join(map(json.dumps, entries)))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    run = ("eval", "-m", model_folder, "-t", mine, "--method", "baseline", "--method", "adaptvis")
    result = adaptvis(*run, "-o", "out")
    assert result.code == 0, result.err
    records = read_records(Path("out/records.jsonl"))
    assert [bool(r.error) for r in records] == [i in (6, 7) for i in range(12)]
    note = next(line for line in result.err.splitlines() if "failed" in line)
    assert note.startswith("note: 1 of 6 questions of mine failed with random-tiny")
    assert "3.png cannot be read" in note
    summary = json.loads(Path("out/summary.json").read_text())
    (failures,) = summary["errors"]
    assert (failures["task"], failures["questions"], failures["errors"]) == ("mine", 6, 1)
    assert {a["questions"] for a in summary["accuracies"]} == {5}
    assert set(summary["versions"]) == {"python", "adaptvis", "torch", "transformers"}
    assert summary["run"]["questions"]["mine"]["indices"] == "0-5"
    assert len(summary["run"]["questions"]["mine"]["prompts_sha256"]) == 64
    assert_one_sentence(adaptvis(*run, "-o", "none", "--max-errors", "0"), "1 of the 6", "3.png")
    assert Path("none/records.jsonl").is_file()


def test_shards_merge_into_the_unsharded_run(adaptvis: Adaptvis, model_folder: Path) -> None:
    run = (
        *("eval", "-m", model_folder, "-t", "2ds", "--limit", 12, "--batch-size", 1),
        *("--method", "baseline"),
    )
    assert adaptvis(*run, "-o", "whole").code == 0
    for number in (1, 2):
        assert adaptvis(*run, "--shard", f"{number}/2", "-o", number).code == 0
    merged = adaptvis(*run, "--merge", "2", "--merge", "1", "-o", "merged")
    assert merged.code == 0, merged.err
    assert "12 answers" in merged.out
    for name in ("records.jsonl", "summary.json", "run.json"):
        assert Path("merged", name).read_bytes() == Path("whole", name).read_bytes()
    assert_one_sentence(adaptvis(*run, "--merge", "2", "-o", "x"), "shards 1/2 are missing")


def test_the_batch_size_does_not_change_the_answers(adaptvis: Adaptvis, model_folder: Path) -> None:
    run = ("eval", "-m", SHORTCUT, "-t", "2ds", "--limit", 24)
    found = {}
    for batch_size in (1, 7, 64, "auto"):
        folder = Path(f"batches-{batch_size}")
        result = adaptvis(*run, "--batch-size", batch_size, "-o", folder)
        assert result.code == 0, result.err
        found[batch_size] = read_records(folder / "records.jsonl")
        engines = json.loads((folder / "summary.json").read_text())["engines"]
        assert engines[SHORTCUT]["batch_size"] == str({"auto": 16}.get(batch_size, batch_size))
    assert len({r.answer for r in found[1]}) > 3
    assert len({r.method for r in found[1]}) == 4
    for other in (7, 64, "auto"):
        for one, record in zip(found[1], found[other], strict=True):
            assert dataclasses.replace(record, confidence=one.confidence) == one
            assert record.confidence == pytest.approx(one.confidence, abs=1e-5)


def test_options_reach_the_task_only_where_they_are_given(
    adaptvis: Adaptvis, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, asked = get_task("2ds"), []

    def find(name: str, **options: str) -> Task:
        asked.append((name, options))
        return task

    monkeypatch.setattr("adaptvis.tasks.get_task", find)
    run = ("eval", "-m", model_folder, "-t", "2ds", "--limit", 1, "--method", "baseline", "-o")
    assert adaptvis(*run, "one", "--part", "validation").code == 0
    assert adaptvis(*run, "two", "--data", "folder", "--split", "grouped").code == 0
    assert asked == [("2ds", {}), ("2ds", {"data": "folder", "split": "grouped"})]
    stored = [json.loads(Path(name, "run.json").read_text()) for name in ("one", "two")]
    assert stored[0]["part"] == "validation"
    assert "data" not in stored[0]
    assert (stored[1]["data"], stored[1]["split"]) == ("folder", "grouped")
