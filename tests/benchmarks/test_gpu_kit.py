"""The GPU kit in its smoke mode, as a user runs it: everything but the device and the sizes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "benchmarks" / "gpu" / "run.py"
STAGES = ("correctness", "speed", "tuning", "models", "families", "vllm", "training")
# A stage whose own code cannot be imported.
BROKEN = "import sys\nsys.modules['kernel_bench'] = None\n"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(KIT), *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def pages(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("?_*.json"))]
    return {page["stage"]: page for page in found}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of every stage."""
    folder = tmp_path_factory.mktemp("gpu")
    configs = list((ROOT / "kernels").rglob("configs/*.json"))
    before = {path: path.read_bytes() for path in configs}
    done = run("--smoke", "--output", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in configs} == before
    return folder


@pytest.fixture
def gpu() -> Iterator[Any]:
    """Imports modules of the kit."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield lambda name: importlib.import_module(f"gpu.{name}")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_every_stage_runs_whole_and_vllm_where_it_is_installed(smoke: Path) -> None:
    found = pages(smoke)
    assert tuple(found) == STAGES
    spec = importlib.util.find_spec("vllm")
    installed = spec is not None and spec.origin is not None
    for stage, page in found.items():
        if stage == "vllm" and not installed:
            assert page["state"] == "skipped"
            assert "vllm is missing: python benchmarks/gpu/run.py --wheels vllm" in page["detail"]
            continue
        assert page["state"] == "done", page
        assert page["finished"] == page["planned"] > 0


def test_pages_say_where_from_and_claim_no_speed(smoke: Path) -> None:
    for page in pages(smoke).values():
        assert page["targets"] == []
        assert "--smoke" in page["command"]
        assert {"torch", "triton", "transformers", "adaptvis", "commit"} <= set(page["versions"])
    for path in smoke.glob("*.md"):
        assert "Smoke run" in path.read_text()
    summary = (smoke / "summary.md").read_text()
    assert "## Targets" not in summary
    for stage in STAGES:
        assert f"| [{stage}](" in summary


def test_tuned_configurations_of_a_smoke_run_stay_in_its_folder(smoke: Path) -> None:
    written = {path.parent.name for path in (smoke / "configs").glob("*/interpreter.json")}
    assert written == {"select_alpha", "rescale_norms"}


def test_finished_parts_are_kept_until_they_are_wanted_again(smoke: Path) -> None:
    for options, kept in (((), 2), (("--again",), 0)):
        done = run("--smoke", "--output", smoke, *options, "3")
        assert done.returncode == 0, done.stderr
        page = pages(smoke)["tuning"]
        assert (page["state"], page["finished"], page["kept"]) == ("done", 2, kept)


def test_a_stage_that_is_out_of_time_says_what_it_left_out_and_goes_on_later(
    tmp_path: Path,
) -> None:
    done = run("--smoke", "--output", tmp_path, "--minutes", "0", "speed")
    assert done.returncode == 0, done.stderr
    page = pages(tmp_path)["speed"]
    assert (page["state"], page["finished"]) == ("unfinished", 1)
    assert len(page["left_out"]) == page["planned"] - 1
    assert "Left out for lack of time" in (tmp_path / "2_speed.md").read_text()
    assert "parts left out for lack of time" in (tmp_path / "summary.md").read_text()
    run("--smoke", "--output", tmp_path, "speed")
    page = pages(tmp_path)["speed"]
    assert (page["state"], page["kept"]) == ("done", 1)


def test_a_stage_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    output = tmp_path / "output"
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(tmp_path), before])
    done = run("--smoke", "--output", output, "speed", "families", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("failed: speed")
    found = pages(output)
    assert found["speed"]["state"] == "failed"
    assert found["families"]["state"] == "done", found["families"]
    assert "ModuleNotFoundError" in (output / "summary.md").read_text()


def test_without_a_gpu_and_without_smoke_there_is_one_sentence(tmp_path: Path) -> None:
    done = run("--output", tmp_path / "none", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("No GPU found")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()
    done = run("--smoke", "spee")
    assert done.returncode == 2
    assert "unknown stage 'spee'; one of correctness, speed" in done.stderr


def test_wheels_are_named_exactly_and_in_groups_that_can_be_brought(tmp_path: Path) -> None:
    has = tmp_path / "has.txt"
    has.write_text("torch==2.11.0\ntriton==3.6.0\ntransformers==5.17.0\nPyYAML==6.0\n")
    done = run("--wheels", "--python", "3.12", "--has", has)
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if "pip download" in line]
    pins = [word for line in commands for word in line.split() if "==" in word]
    names = {pin.split("==")[0] for pin in pins}
    assert {"pydantic", "pydantic-core", "annotated-types", "typing-inspection"} <= names
    assert not names & {"torch", "triton", "transformers", "pyyaml", "vllm"}
    for line in commands:
        assert "--no-deps --only-binary=:all: --python-version 3.12" in line
        assert "--platform manylinux_2_28_x86_64" in line
    sizes = [float(size) for size in re.findall(r"# ([\d.]+) MiB", done.stdout)]
    assert len(sizes) == len(commands)
    assert all(0 < size < 60 for size in sizes)
    assert "0 packages are missing" in run("--wheels", "1", "2", "3", "--has", has).stdout


def test_vllm_needs_an_older_transformers_than_the_machine_has(tmp_path: Path, gpu: Any) -> None:
    wheels = gpu("wheels")
    (wheel,) = [one for one in wheels.wheels({"vllm"}) if one.name == "transformers"]
    assert wheels._lacks(wheel, {"transformers": "5.17.0"})
    assert not wheels._lacks(wheel, {"transformers": wheel.version})


def test_a_stripped_wheel_comes_together_and_a_damaged_piece_is_refused(
    tmp_path: Path, gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module = gpu("vllm_wheel")
    wheel = tmp_path / "vllm-0.26.0-any.whl"
    contents = {f"vllm/{i}.so": os.urandom(700_000) for i in range(5)}
    left_out = {"vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so": b"x", "vllm/vllm-rs": b"x"}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**contents, **left_out}.items():
            archive.writestr(name, content)
    pieces = module.strip(wheel, tmp_path, 3)
    assert len(pieces) == 3
    assert all(piece.stat().st_size < 3 * 2**20 for piece in pieces)
    assert module.assemble(tmp_path) == 0
    site = tmp_path / "site"
    found = {p.relative_to(site).as_posix(): p.read_bytes() for p in site.rglob("*.so")}
    assert found == contents
    pieces[1].write_bytes(b"half")
    assert module.assemble(tmp_path) == 2
    assert f"{pieces[1]} is missing or damaged" in capsys.readouterr().err


def test_results_depend_on_the_device_the_versions_and_the_sources(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = gpu("setting")
    machine = {"device": "A", "state": "cold"}
    key = setting.key_of(machine, smoke=False, tuned=False)
    assert setting.key_of(machine | {"state": "hot"}, smoke=False, tuned=False) == key
    assert setting.key_of(machine | {"device": "B"}, smoke=False, tuned=False) != key
    assert setting.key_of(machine, smoke=False, tuned=True) != key
    monkeypatch.setattr(setting, "versions", lambda: {"torch": "1", "commit": "other"})
    other = setting.key_of(machine, smoke=False, tuned=False)
    assert other != key
    monkeypatch.setattr(setting, "versions", lambda: {"torch": "1", "commit": "another"})
    assert setting.key_of(machine, smoke=False, tuned=False) == other


def test_a_target_is_judged_by_its_worst_value(gpu: Any) -> None:
    judged = gpu("stage").judged
    assert judged("x", 1.02, [1.0, 1.01], at_most=True).verdict == "met"
    assert judged("x", 1.02, [1.0, 1.03], at_most=True).verdict == "not met"
    assert judged("x", 0.98, [0.97, 1.0], at_most=False).verdict == "not met"
    assert judged("x", 0.98, [], at_most=False).verdict == "not measured"


@pytest.mark.parametrize("status", ["wrong", "failed", "skipped"])
def test_a_kernel_that_was_not_found_right_is_tried_again(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    from adaptvis_kernels import device_check

    (part, *_) = device_check.checks(small=True)
    monkeypatch.setattr(device_check, "choose_device", lambda smoke: torch.device("cpu"))
    monkeypatch.setattr(
        device_check,
        "run_checks",
        lambda chosen, *_, **__: [device_check.Checked(part, status, detail="out of memory")],
    )
    setting = gpu("setting").Setting(True, tmp_path, 60, "command")
    store = gpu("store").Store(tmp_path / "parts.jsonl", "key")
    for name, result in gpu("stages.correctness").results(setting, [part.name]):
        store.add(name, result)
    assert store.results[part.name]["problem"] == f"{status}: out of memory"
    assert gpu("store").Store(tmp_path / "parts.jsonl", "key").results == {}


def test_git_is_asked_once_however_many_parts_are_written(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = gpu("setting")
    getattr(setting._commit, "cache_clear", lambda: None)()
    calls = []
    real = subprocess.run
    monkeypatch.setattr(setting.subprocess, "run", lambda *a, **k: calls.append(a) or real(*a, **k))
    assert setting.versions() == setting.versions() == setting.versions()
    assert len(calls) <= 2


def test_the_page_of_the_families_says_why_tests_were_skipped(gpu: Any, tmp_path: Path) -> None:
    families = gpu("stages.families")
    (tmp_path / "report.xml").write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b">'
        '<skipped message="needs torchvision"/></testcase></testsuite></testsuites>'
    )
    result = families._counted(tmp_path / "report.xml")
    assert "problem" not in result
    page = families.page({"tests/hf/test_exactness.py": result}, False)
    assert "| tests/hf/test_exactness.py | 1 | 1 |" in page
    assert "- needs torchvision" in page
