"""`adaptvis doctor --gpu`, where there is none."""

import os
import subprocess
import sys
from typing import Any

import pytest
from adaptvis_kernels import device_check

from adaptvis.cli import doctor_gpu


def test_without_a_gpu_it_is_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adaptvis", "doctor", "--gpu"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: No GPU found")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("problem", "code"), [("", None), ("Memory was too short", 2)])
def test_the_block_comes_out_as_it_is_and_a_problem_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str, code: int
) -> None:
    def report(*, smoke: bool, versions: dict[str, str], say: Any) -> tuple[str, str]:
        assert "adaptvis" in versions
        say("1 of 1")
        return f"| a | {'b' * 200} |\n", problem

    monkeypatch.setattr(device_check, "device_report", report)
    if code is None:
        doctor_gpu.doctor_gpu()
    else:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - typer's own exit
            doctor_gpu.doctor_gpu()
        assert caught.value.exit_code == code
    captured = capsys.readouterr()
    assert captured.out == f"| a | {'b' * 200} |\n"
    assert (f"error: {problem}" in captured.err) is bool(problem)
