"""The benchmarks of the kernels, run in Triton's interpreter as a user would run them."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
CONFIGS = ROOT / "kernels" / "adaptvis_kernels" / "ops"
SPEED, TUNE = "benchmarks/kernel_speed.py", "benchmarks/tune_kernels.py"
KERNELS = {
    "steered_paged_decode",
    "steered_prefill",
    "select_alpha",
    "rescale_norms",
    "normalize_projection",
    "image_attention",
}

# Runs the benchmark with a kernel whose confidence is one per cent too large.
WITH_AN_ERROR = """
import runpy, sys
import adaptvis_kernels.ops.select_alpha as op
right = op.select_alpha
def wrong(*args, **options):
    confidence, alpha = right(*args, **options)
    return 1.01 * confidence, alpha
op.select_alpha = wrong
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/kernel_speed.py", run_name="__main__")
"""


def run(*arguments: str, interpret: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "kernels"), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports modules of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"kernel_bench.{name}")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run that already held the results of a real one."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("kernels.json", "kernels.md"):
        (folder / name).write_text("measured on a GPU")
    done = run(SPEED, "--smoke", "--output-dir", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_smoke_run_never_touches_the_results_of_a_real_one(smoke: Path) -> None:
    assert {path.name for path in smoke.iterdir()} == {
        "kernels.json",
        "kernels.md",
        "kernels_smoke.json",
        "kernels_smoke.md",
    }
    for name in ("kernels.json", "kernels.md"):
        assert (smoke / name).read_text() == "measured on a GPU"


def test_the_tables_hold_every_kernel_and_every_kernel_is_right(smoke: Path) -> None:
    data = json.loads((smoke / "kernels_smoke.json").read_text())
    text = (smoke / "kernels_smoke.md").read_text()
    assert data["run"]["finished"]
    assert {record["kernel"] for record in data["records"]} == KERNELS
    for record in data["records"]:
        assert f"| {record['shape']} | " in text
        if record["ours"]:
            assert record["status"] == "ok", record
            assert record["error"] <= record["limit"]
    for kernel in KERNELS:
        assert f"\n## {kernel}\n" in text


def test_the_baselines_are_there_and_one_that_refuses_says_so(smoke: Path) -> None:
    records = json.loads((smoke / "kernels_smoke.json").read_text())["records"]
    others = {(record["kernel"], record["variant"]) for record in records if not record["ours"]}
    for kernel in ("steered_paged_decode", "steered_prefill"):
        for name in (
            "SDPA flash, unsteered",
            "SDPA cuDNN, unsteered",
            "FlexAttention score_mod, compiled",
            "eager torch",
        ):
            assert (kernel, name) in others
    assert {("rescale_norms", "torch"), ("rescale_norms", "torch.compile")} <= others
    # cuDNN runs on no CPU: recorded, and the run went on.
    refused = [record for record in records if record["variant"].startswith("SDPA cuDNN")]
    assert {record["status"] for record in refused} == {"not supported"}
    assert all(record["detail"] for record in refused)


def test_a_smoke_run_claims_no_speed(smoke: Path) -> None:
    data = json.loads((smoke / "kernels_smoke.json").read_text())
    text = (smoke / "kernels_smoke.md").read_text()
    assert "meaningless" in text
    assert "## Targets" not in text
    assert data["targets"] == []
    for record in data["records"]:
        assert record["time_over"] == {}
        assert record["share_of_ceiling"] is record["bytes_per_second"] is None


def test_a_kernel_with_a_wrong_output_is_marked_and_not_timed(tmp_path: Path) -> None:
    options = ("--smoke", "--kernel", "select_alpha", "--output-dir", str(tmp_path))
    done = run("-c", WITH_AN_ERROR, *options)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "select_alpha: wrong, error 1.0e-02" in done.stderr
    ours, baseline = json.loads((tmp_path / "kernels_smoke.json").read_text())["records"]
    assert (ours["status"], ours["microseconds"]) == ("wrong", None)
    assert baseline["status"] == "ok"
    assert "**WRONG**" in (tmp_path / "kernels_smoke.md").read_text()


@pytest.mark.parametrize("script", [SPEED, TUNE])
def test_without_a_gpu_there_is_one_sentence_and_status_2(script: str) -> None:
    done = run(script, interpret=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("No GPU found")


def test_tuning_tries_two_candidates_of_every_op_and_stores_nothing() -> None:
    before = {path: path.read_bytes() for path in CONFIGS.glob("*/configs/*.json")}
    done = run(TUNE, "--smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": 2 candidates") == 5
    assert done.stdout.count("timed, meaningless") == 10, done.stdout
    assert {path: path.read_bytes() for path in CONFIGS.glob("*/configs/*.json")} == before


def test_times_are_not_taken_in_the_interpreter(bench: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    device = bench("device")
    with pytest.raises(SystemExit) as caught:
        device.choose_device(smoke=False)
    assert caught.value.code == 2
    assert "unset TRITON_INTERPRET" in capsys.readouterr().err


def test_an_output_with_a_number_never_written_is_never_right() -> None:
    from adaptvis_kernels.device_check.correctness import relative_error as error

    expected = torch.tensor([3.0, 4.0])
    assert error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert error(torch.tensor([3.0, float("nan")]), expected) == float("inf")
    with pytest.raises(ValueError, match="shape"):
        error(expected[:1], expected)


def test_targets_are_judged_by_the_worst_shape(bench: Any) -> None:
    record, targets = bench("problem").Record, bench("targets").TARGETS

    def steered(columns: int, over: float, share: float) -> Any:
        sizes = {"batch": 1, "rows": 1, "columns": columns, "window": None}
        name = ("steered_paged_decode", "model", f"context {columns}", sizes, "steered, dense")
        one = record(*name, ours=True, status="ok", limit=0.01, microseconds=10.0)
        one.time_over, one.share_of_ceiling = {"alpha 1, dense": over}, share
        return one

    good = [steered(640, 1.0, 0.2), steered(8192, 1.01, 0.9)]
    overhead, bandwidth, prefill = targets[:3]
    assert overhead.judge(good)[0] == bandwidth.judge(good)[0] == "met"
    assert prefill.judge(good) == ("not measured", "")
    bad = [*good, steered(32768, 1.05, 0.7)]
    assert overhead.judge(bad)[0] == bandwidth.judge(bad)[0] == "not met"
    assert "context 32768" in overhead.judge(bad)[1]
    wrong = steered(640, 9.0, 0.0)
    wrong.status, wrong.microseconds = "wrong", None
    assert overhead.judge([*good, wrong])[0] == "met"


def test_written_configurations_keep_the_other_keys_and_say_which_were_timed(
    bench: Any, tmp_path: Path
) -> None:
    write = bench("tuning").write_configurations
    path = tmp_path / "sm_90.json"
    write(path, {"a": {"BLOCK_M": 64, "num_warps": 4}}, "timed on X")
    assert json.loads(path.read_text()) == {
        "source": "timed on X",
        "configurations": {"a": {"BLOCK_M": 64, "num_warps": 4}},
    }
    write(path, {"b": {"BLOCK_M": 16}}, "timed on X")
    assert json.loads(path.read_text())["source"] == "timed on X"
    write(path, {"b": {"BLOCK_M": 32}}, "timed on Y")
    assert json.loads(path.read_text()) == {
        "source": "timed on Y: b; the others: timed on X",
        "configurations": {"a": {"BLOCK_M": 64, "num_warps": 4}, "b": {"BLOCK_M": 32}},
    }


def test_a_configuration_is_replaced_only_by_a_clearly_faster_one(bench: Any) -> None:
    tuning = bench("tuning")
    current = tuning.Outcome({"n": 1}, (100.0, 10.0))
    slightly = tuning.Outcome({"n": 2}, (99.5, 10.0))
    clearly = tuning.Outcome({"n": 3}, (90.0, 9.5))
    dropped = tuning.Outcome({"n": 4}, (), "wrong, error 1.0e-01")
    assert tuning.best([current, slightly, dropped]) is current
    assert tuning.best([current, slightly, clearly]) is clearly
    assert tuning.best([dropped, clearly]) is clearly
    assert tuning.best([dropped]) is None


def _attempt(bench: Any, *, error: float = 0.0, spills: int = 0) -> Any:
    """The outcome of a candidate whose timed variant is right, and its other one as given."""
    from adaptvis_kernels.ops.select_alpha import launch as launcher

    device = torch.device("cpu")

    def variant(name: str, error: float, spills: int) -> Any:
        compiled = lambda **arguments: SimpleNamespace(n_spills=spills)  # noqa: E731

        def call() -> torch.Tensor:
            launcher.configuration("select_alpha", "16", "sm_90")
            launcher.launch({(1,): compiled}, (1,), device=device, num_warps=4, num_stages=1)
            return torch.zeros(1)

        return bench("problem").Variant(name, lambda: [call], lambda out: error, 0.1)

    variants = [variant("plain", 0.0, 0), variant("masked", error, spills)]
    problem = bench("problem").Problem("kernel", "model", "shape", (1, 1), variants)
    task = bench("candidates").Task(
        "select_alpha", "16", "launch", [], [], ("plain",), checks=("masked",)
    )
    return bench("tuning").attempt(task, [problem, problem], {"BLOCK_V": 64}, device)


def test_a_candidate_must_serve_what_is_not_timed_too(bench: Any) -> None:
    assert len(_attempt(bench).microseconds) == 2
    assert _attempt(bench, error=0.2).why == "masked: wrong, error 2.0e-01"
    assert _attempt(bench, spills=8).why == "masked: spills 8 registers"
    assert _attempt(bench, spills=8).microseconds == ()


def test_attention_is_tuned_with_masks_and_without_and_both_are_checked(bench: Any) -> None:
    from adaptvis_kernels.configs import configuration

    tasks = {(task.op, task.key): task for task in bench("candidates").tasks(smoke=False)}
    for (op, key), task in tasks.items():
        assert configuration(op, key, "sm_90")
        if op in ("steered_paged_decode", "steered_prefill"):
            assert key.endswith("/masked") or (op, f"{key}/masked") in tasks
            assert key.endswith("/masked") or "steered, columns and heads" in task.checks
            assert all(("mask" in name) == key.endswith("/masked") for name in task.checks)
        if op == "image_attention":
            assert task.checks == ("image_attention, explicit mask and heads",)


def test_no_benchmark_hides_the_library_called_kernels() -> None:
    """A script's folder comes first on Python's path, and transformers imports that library."""
    assert not (BENCHMARKS / "kernels.py").exists()
    assert not (BENCHMARKS / "kernels" / "__init__.py").exists()
