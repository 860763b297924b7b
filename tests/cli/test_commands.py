"""The commands on a real model."""

import json
from pathlib import Path

import pytest
from cli.conftest import Adaptvis
from PIL import Image

from adaptvis.cli.models import CONVERGED, SHORTCUT
from adaptvis.evaluation import read_records
from adaptvis.presets import load_model_presets


def test_help_and_version(adaptvis: Adaptvis) -> None:
    from adaptvis import __version__

    assert adaptvis("--version").out.strip() == __version__
    text = adaptvis("--help").out
    assert all(command in text for command in ("eval", "tasks", "tune", "train", "doctor"))
    assert "--resume" in adaptvis("eval", "--help").out


def test_tasks_lists_every_task(adaptvis: Adaptvis) -> None:
    result = adaptvis("tasks")
    assert result.code == 0
    for name in ("2ds", "2ds-prior-balanced", "2ds-prior-conflicting", "2ds-prior-skewed"):
        assert name in result.out
    assert '"options": ["left", "right"]' in result.out


def test_train_lists_its_recipes(adaptvis: Adaptvis) -> None:
    assert "tiny-2ds-shortcut" in adaptvis("train", "--list").out


def test_eval_writes_everything_and_resumes(adaptvis: Adaptvis, model_folder: Path) -> None:
    run = (
        *("eval", "-m", model_folder, "-t", "2ds", "--limit", 18, "--batch-size", 6, "-o", "out"),
        *("--method", "baseline", "--method", '{"method": "scalingvis", "alpha": 3}'),
        *("--preset", "adaptvis-vsr"),
    )
    result = adaptvis(*run)
    assert result.code == 0, result.err
    folder = Path("out")
    whole = (folder / "records.jsonl").read_bytes()
    records = read_records(folder / "records.jsonl")
    assert len(records) == 18 * 3
    methods = ["baseline", "scalingvis alpha=3.0", "adaptvis-vsr"]
    assert [r.method for r in records[:3]] == methods
    by_method = {m: [r for r in records if r.method == m] for m in methods}
    assert {r.alpha for r in by_method[methods[1]]} == {3.0}
    assert {r.alpha for r in by_method[methods[2]]} <= {0.5, 1.2}
    for record in by_method[methods[2]]:
        assert record.alpha == (0.5 if record.confidence < 0.64 else 1.2)
    assert all(r.applied for r in records if r.method != "baseline")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["run"]["limit"] == 18
    assert summary["engines"]["random-tiny"]["transformers"]
    with Image.open(folder / "accuracy_by_objects.png") as image:
        assert image.format == "PNG"
    for expected in ("random-tiny on 2ds", "too few images to tell", "Overview", "54 answers"):
        assert expected in result.out

    (folder / "records.jsonl").write_bytes(whole[: len(whole) // 2])
    assert adaptvis(*run).code == 2
    changed = adaptvis(*run, "--resume", "--dtype", "bfloat16")
    assert 'dtype was "auto", now "bfloat16"' in changed.err
    assert adaptvis(*run, "--resume").code == 0
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


def test_doctor(adaptvis: Adaptvis, model_folder: Path, tmp_path: Path) -> None:
    result = adaptvis("doctor", "-m", model_folder)
    assert "would be steered: family llava, 4 layers" in result.out
    assert "transformers" in result.out
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama"}')
    result = adaptvis("doctor", "-m", "text")
    assert result.code == 2
    assert "would not be steered" in result.out
    assert "register_family" in result.err
    assert "Traceback" not in result.err


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
