"""Several processes train what one trains, and what would not happen is refused."""

import json
import os
import re
import subprocess
import sys

import pytest
from training.llava.small import SMALL

from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.training.llava import Settings, load_recipe, override, run_recipe
from adaptvis.training.llava.sharing import share_of


def curve(folder):
    lines = [json.loads(x) for x in (folder / "train_log.jsonl").read_text().splitlines()]
    return [x["stage"] for x in lines], [x["loss"] for x in lines], [x["grad_norm"] for x in lines]


def launch(*command):
    launched = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launched += ["--num_processes", "2", "--main_process_port", "0"]
    return subprocess.run(
        [*launched, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_have_the_loss_curve_of_one(small, tmp_path):
    # 10 conversations in steps of 8, two epochs: each has a last step that must be filled up.
    over = ["stages.stage-2.limit=10", "stages.stage-2.steps=null", "stages.stage-2.epochs=2"]
    over += ["stages.stage-2.global_batch=8", "stages.stage-2.per_device_batch=4"]
    one = run_recipe(small("tiny-2ds-normalize", *over), tmp_path / "one", Settings(seed=1))
    two = tmp_path / "two"
    command = [
        "-m",
        "adaptvis",
        "train",
        "--recipe",
        "tiny-2ds-normalize",
        "--seed",
        "1",
        "--output",
        str(two),
    ]
    for setting in (*SMALL, *over):
        command += ["--set", setting]
    done = launch(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 1
    assert json.loads((two / "training.json").read_text())["processes"] == 2
    (stages, losses, norms), (stages_of_one, losses_of_one, norms_of_one) = curve(two), curve(one)
    assert stages == stages_of_one == ["stage-1"] * 2 + ["stage-2"] * 4
    assert losses == pytest.approx(losses_of_one, rel=1e-4)
    assert norms == pytest.approx(norms_of_one, rel=1e-3)


FAILING = """
import sys
from pathlib import Path
import adaptvis.training.llava as llava
from adaptvis.cli.training.two_stages import train_two_stages
from adaptvis.errors import AdaptVisError, DataError
from adaptvis.training.llava import processes

def divide():
    1 / 0

def fail(*_, **__):
    try:
        processes.by_the_first(divide)
    except Exception as error:
        print(f"{processes.rank()} caught {type(error).__name__}\\n", end="", flush=True)
    if processes.rank() == 1:
        raise DataError("picture 5 is torn")
    processes.wait()

llava.run_recipe = fail
try:
    train_two_stages(None, Path(), seed=0, resume=False, max_steps=1, report_to=())
except AdaptVisError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def test_a_failure_in_one_process_is_said_once_and_ends_all(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = launch(script)
    assert done.returncode != 0
    assert sorted(done.stdout.split("\n")) == [
        "",
        "0 caught ZeroDivisionError",
        "1 caught FirstProcessFailed",
    ]
    assert done.stderr.count("In process 1 of 2: picture 5 is torn") == 1


def test_sharding_without_a_gpu_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UnsupportedError, match="FSDP needs GPUs"):
        run_recipe(small(), tmp_path / "run")


@pytest.mark.parametrize(("name", "said"), [("comet", "known are tensorboard"), ("wandb", "pip")])
def test_a_reporter_that_is_not_there_is_told(small, tmp_path, monkeypatch, name, said):
    monkeypatch.setattr("adaptvis.training.llava.reporters.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=said):
        run_recipe(small(), tmp_path / "run", Settings(report_to=(name,)))


def test_what_processes_do_at_once_shrinks_to_fit_the_global_batch():
    first, second = load_recipe("llava-1.5-7b-normalize").stages
    assert [share_of(first, n) for n in (1, 8, 16, 256)] == [(32, 8), (32, 1), (16, 1), (1, 1)]
    assert [share_of(second, n) for n in (8, 16)] == [(16, 1), (8, 1)]


@pytest.mark.parametrize("processes", [3, 512])
def test_a_global_batch_that_cannot_be_shared_is_told(processes):
    recipe = load_recipe("llava-1.5-7b-normalize")
    stage = recipe.stages[0]
    with pytest.raises(ConfigError, match=f"256, which {processes} processes") as caught:
        share_of(stage, processes)
    # Both ways out that the message names are ways out.
    said = re.search(r"start (\d+) processes, .*set (\S+)$", str(caught.value))
    assert share_of(stage, int(said[1]))
    assert share_of(override(recipe, [said[2]]).stages[0], processes)


def test_a_second_stage_that_cannot_be_shared_is_told_before_the_first(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr("adaptvis.training.llava.run.processes", lambda: 4)
    recipe = small("tiny-2ds-normalize", "stages.stage-2.global_batch=6")
    with pytest.raises(ConfigError, match="stage-2 has a global batch of 6, which 4 processes"):
        run_recipe(recipe, tmp_path / "run", Settings(seed=1))
    assert not (tmp_path / "run").exists()
