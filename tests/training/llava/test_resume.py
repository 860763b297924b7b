"""Killed anywhere and resumed, a run ends with the same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adaptvis.errors import OtherRunError, OutputError
from adaptvis.training.llava import Settings, run_recipe

SCRIPT = Path(__file__).with_name("interrupted.py")


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    return run_recipe(small(), tmp_path_factory.mktemp("whole") / "run", Settings(seed=1))


def killed_at(output, point, *more):
    process = subprocess.run(
        [sys.executable, SCRIPT, output, point, *more], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


def curve(folder):
    lines = [json.loads(x) for x in (folder / "train_log.jsonl").read_text().splitlines()]
    return [(x["stage"], x["step"], x["loss"], x["grad_norm"]) for x in lines]


def assert_same(output, uninterrupted):
    found, expected = (load_file(f / "model.safetensors") for f in (output, uninterrupted))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert curve(output) == curve(uninterrupted)


@pytest.mark.parametrize(
    ("points", "left"),
    [
        # Inside the first stage, behind a checkpoint; then in the second, while one is written.
        (("stage-1:2", "stage-2:save"), ["checkpoint-2"]),
        # Behind a checkpoint and a step that is repeated; then when all is trained.
        (("stage-2:3", "model"), ["checkpoint-2", "checkpoint-4"]),
    ],
)
def test_a_run_killed_twice_ends_with_the_same_bits(small, uninterrupted, tmp_path, points, left):
    output = tmp_path / "run"
    killed_at(output, points[0])
    killed_at(output, points[1], "--resume")
    assert not (output / "config.json").exists()
    assert sorted(p.name for p in (output / "stage-2").glob("checkpoint-*")) == left
    run_recipe(small(), output, Settings(seed=1), resume=True)
    assert_same(output, uninterrupted)
    assert not list(output.glob("stage-*/checkpoint-*"))


def test_a_finished_run_resumes_to_itself(small, uninterrupted):
    before = (uninterrupted / "model.safetensors").stat().st_mtime_ns
    run_recipe(small(), uninterrupted, Settings(seed=1), resume=True)
    assert (uninterrupted / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_with_a_run_is_not_overwritten(small, uninterrupted):
    with pytest.raises(OutputError, match="already holds"):
        run_recipe(small(), uninterrupted, Settings(seed=1))


@pytest.mark.parametrize(
    ("settings", "seed", "said"),
    [
        (("stages.stage-2.learning_rate=1e-5",), 1, "learning_rate was 0.0005, now 1e-05"),
        ((), 2, "seed was 1, now 2"),
    ],
)
def test_another_recipe_or_seed_is_not_resumed(small, uninterrupted, settings, seed, said):
    with pytest.raises(OtherRunError, match=said):
        run_recipe(
            small("tiny-2ds-normalize", *settings),
            uninterrupted,
            Settings(seed=seed),
            resume=True,
        )


def test_other_data_is_not_resumed(small, uninterrupted, tmp_path):
    import shutil

    output = shutil.copytree(uninterrupted, tmp_path / "run")
    record = json.loads((output / "training.json").read_text())
    (output / "training.json").write_text(json.dumps({**record, "status": "running"}))
    data = output / "data" / "stage-2" / "data.json"
    data.write_text(data.read_text().replace("red", "blue"))
    with pytest.raises(OtherRunError, match="other data"):
        run_recipe(small(), output, Settings(seed=1), resume=True)


def test_lora_resumes_with_its_adapters_and_projector(small, tmp_path):
    recipe = small("tiny-2ds-normalize", "lora.rank=4", "stages.stage-2.steps=3")
    whole = run_recipe(recipe, tmp_path / "whole", Settings(seed=1))

    def interrupt(report):
        if (report["stage"], report["step"]) == ("stage-2", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", Settings(seed=1, progress=interrupt))
    assert (tmp_path / "run" / "stage-2" / "checkpoint-2").is_dir()
    run_recipe(recipe, tmp_path / "run", Settings(seed=1), resume=True)
    assert_same(tmp_path / "run", whole)
