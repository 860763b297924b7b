"""The check of a device finds what is wrong with it."""

import functools
import math
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
from adaptvis_kernels.device_check.correctness import check

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
    text, right = device_report(smoke=True, versions={"adaptvis": "1.2"}, say=lambda _: None)
    assert right
    assert f"| torch | {torch.__version__} |" in text
    assert "| adaptvis | 1.2 |" in text
    assert "| select_alpha | float32 | 1 | 1 |" in text
    assert "GB/s" not in text
    _replace(monkeypatch, lambda confidence, alpha: (confidence, 2 * alpha))
    text, right = device_report(smoke=True, say=lambda _: None)
    assert not right
    assert "**wrong**: select_alpha" in text


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
