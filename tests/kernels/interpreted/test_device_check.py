"""The check of a device finds what is wrong with it."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adaptvis_kernels.ops.select_alpha.cases as cases
import pytest
import torch
from adaptvis_kernels.cases import OPS
from adaptvis_kernels.device_check import (
    Check,
    Checked,
    NoDevice,
    checks,
    choose_device,
    device_report,
    machine,
    report,
    run_checks,
)
from adaptvis_kernels.device_check.correctness import LIMITS, _error, check, relative_error

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="made for the interpreter")
CPU = torch.device("cpu")
SELECT = [one for one in checks(small=True) if one.op == "select_alpha"]


def _replace(monkeypatch: Any, change: Any) -> None:
    right = cases.select_alpha

    @functools.wraps(right)
    def select_alpha(*args: Any, **options: Any) -> Any:
        return change(*right(*args, **options))

    monkeypatch.setattr(cases, "select_alpha", select_alpha)


def test_every_kernel_is_checked_in_all_its_data_types() -> None:
    everything = checks()
    assert {one.op for one in everything} == {one.op for one in checks(small=True)} == set(OPS)
    by_case: dict[tuple[str, str], set[str]] = {}
    for one in everything:
        by_case.setdefault((one.op, one.case), set()).add(one.dtype)
    assert all(types in ({"bfloat16", "float16"}, {"float32"}) for types in by_case.values())
    for op in OPS:
        dtypes = {dtype for (name, _), types in by_case.items() if name == op for dtype in types}
        assert dtypes == {"bfloat16", "float16", "float32"}


def test_right_kernels_are_right() -> None:
    assert [checked.status for checked in run_checks(SELECT, CPU)] == ["right"] * len(SELECT)


def test_checks_may_run_in_processes_of_their_own() -> None:
    unknown = Check("select_alpha", "no such case", "float16", small=True)
    found = {c.check: c.status for c in run_checks([*SELECT[:1], unknown], CPU, jobs=2)}
    assert found == {SELECT[0]: "right", unknown: "failed"}


def test_a_result_that_is_slightly_off_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace(monkeypatch, lambda confidence, alpha: (1.001 * confidence, alpha))
    found = check(SELECT[0], CPU)
    assert found.status == "wrong"
    assert "confidence of select_alpha" in found.detail
    # A thousandth, of a limit of 1e-4.
    assert found.error == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.bfloat16, 0), (torch.bfloat16, 1.1), (torch.float16, 1.1)]
)
def test_one_wrong_row_among_many_is_wrong_and_rounding_is_not(
    dtype: torch.dtype, factor: float
) -> None:
    expected = torch.randn(
        1, 32, 2048, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    # The short rows of a long prefill, and one whose terms cancel.
    expected[:, :, 8:] /= 20
    expected[0, 0, 5] /= 1e4
    rounding = (
        torch.finfo(dtype).eps
        / 2
        * torch.randn(
            expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
    )
    sound = (expected * (1 + rounding)).to(dtype)
    assert _error(sound, expected, rows=True) < LIMITS[dtype]
    wrong = sound.clone()
    wrong[0, 7, -1] *= factor
    assert relative_error(wrong, expected) < LIMITS[dtype]
    assert _error(wrong, expected, rows=True) > LIMITS[dtype]


def test_one_wrong_number_among_many_is_wrong() -> None:
    expected = 8 + torch.rand(
        2, 32, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected[0, 0, 0] = -math.inf
    expected[0, 1, 0] = math.nan
    sound = expected.float()
    sound[0, 1, 0] = 3
    limit = LIMITS[torch.float32]
    assert _error(sound, expected, rows=False) < limit / 10
    sound[1, 3, -1] *= 1.01
    assert relative_error(sound[1], expected[1]) < limit
    assert _error(sound, expected, rows=False) > limit


def test_a_row_of_nothing_that_got_something_is_wrong() -> None:
    expected = torch.zeros(2, 4, 8, dtype=torch.float64)
    assert _error(expected.float(), expected, rows=True) == 0
    assert _error(expected.float() + 1, expected, rows=True) == math.inf


def test_a_number_that_was_never_written_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(confidence: Any, alpha: Any) -> Any:
        confidence[-1] = math.nan
        return confidence, alpha

    _replace(monkeypatch, forget)
    assert check(SELECT[0], CPU).status == "wrong"


@pytest.mark.parametrize(
    ("problem", "status", "detail"),
    [
        (RuntimeError("out of registers\nand more"), "failed", "RuntimeError: out of registers"),
        (torch.OutOfMemoryError(), "skipped", "out of memory"),
    ],
)
def test_a_kernel_that_raises_fails_and_short_memory_skips(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, status: str, detail: str
) -> None:
    def fail(*_: Any) -> Any:
        raise problem

    _replace(monkeypatch, fail)
    found = check(SELECT[0], CPU)
    assert (found.status, found.detail) == (status, detail)


def test_what_was_checked_survives_being_written_down() -> None:
    for error in (0.5, math.nan, math.inf):
        before = Checked(Check("op", "case", "float16", True), "wrong", error, "why")
        after = Checked.from_dict(before.to_dict())
        assert (after.check, after.status, after.detail) == (before.check, "wrong", "why")
        assert math.isnan(after.error) or after.error == error


def test_the_report_has_the_machine_the_checks_and_no_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "checks", lambda small: SELECT)
    monkeypatch.setattr(report, "speeds", lambda *_, **__: iter(()))
    text, problem = device_report(smoke=True, versions={"adaptvis": "1.2"}, say=lambda _: None)
    assert problem == ""
    assert f"| torch | {torch.__version__} |" in text
    assert "| adaptvis | 1.2 |" in text
    assert "| select_alpha | float32 | 1 | 1 |" in text
    assert "GB/s" not in text
    _replace(monkeypatch, lambda confidence, alpha: (confidence, 2 * alpha))
    text, problem = device_report(smoke=True, say=lambda _: None)
    assert problem.startswith("A kernel is not right on this GPU")
    assert "**wrong**: select_alpha" in text


def test_kernels_that_memory_was_too_short_to_check_are_not_called_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    rest = [one for one in checks(small=True) if one.case == "40, clip only, no weight gradient"]
    monkeypatch.setattr(report, "checks", lambda small: [*SELECT, *rest])
    monkeypatch.setattr(report, "measure_ceilings", short)
    text, problem = device_report(smoke=True, say=lambda _: None)
    assert problem == ""
    assert "No times: out of memory." in text
    _replace(monkeypatch, short)
    text, problem = device_report(smoke=True, say=lambda _: None)
    names = ", ".join(sorted(f"select_alpha in {one.dtype}" for one in SELECT))
    assert problem == (
        f"Memory was too short to check {names}; free memory on this GPU and run it again"
    )
    # One case that was checked is enough.
    done = [Checked(SELECT[0], "skipped"), Checked(SELECT[0], "right", 0.1)]
    assert report._problem(done) == ""


@pytest.mark.parametrize(("uuid", "asked"), [("1-2", "--id=GPU-1-2"), (None, "--id=1")])
def test_the_driver_is_asked_about_the_device_that_torch_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uuid: str | None, asked: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    row = "595, 1 MHz, 2 MHz, 3 MHz, 4 W, 5 W, 6"
    tool.write_text(f"#!/bin/sh\ncase \"$*\" in *{asked}) echo '{row}';; *) exit 6;; esac\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    properties = SimpleNamespace() if uuid is None else SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert machine._asked_of_the_driver(torch.device("cuda", 1))[0] == "595"


def test_an_unknown_gpu_is_one_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    fake = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_name=lambda device: "Old GPU",
    )
    monkeypatch.setattr(machine, "architecture_of", lambda device: "sm_75")
    monkeypatch.setattr(torch, "cuda", fake)
    with pytest.raises(NoDevice, match=r"do not know Old GPU \(sm_75\).*steers there in PyTorch"):
        choose_device(smoke=False)


def test_an_interpreter_that_this_numpy_breaks_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    monkeypatch.setattr(machine, "select_alpha", break_down)
    with pytest.raises(NoDevice, match=r"interpreter does not run.*pip install \"numpy<2.4\""):
        choose_device(smoke=True)
