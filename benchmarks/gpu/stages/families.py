"""Stage 5: the exactness tests of every family, on the device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu.setting import ROOT, Setting
from gpu.stage import Judgement, TimeIsOver, in_turn
from gpu.store import Result

TITLE = "Every family is steered exactly on this device"
MEASURES = (
    "`ADAPTVIS_TEST_DEVICE=cuda python -m pytest tests/hf`: tiny models of every family in float32 "
    "against eager attention written in the tests, and bit-identity where steering is off; then "
    "the tests of the kernels, compiled, with strides, masks and CUDA graphs of every kind."
)
NEEDS = (
    *("torch", "triton", "transformers", "pydantic", "accelerate", "PIL", "yaml", "pyarrow"),
    *("matplotlib", "typer", "pytest", "hypothesis"),
)
USES_KERNELS, OPTIONAL, TUNED = False, False, True

_FIRST = ("tests/hf/test_exactness.py", "tests/hf/test_off_is_untouched.py")
_KERNELS = ("tests/kernels/test_cuda_graphs.py", "tests/kernels/interpreted")
_SMOKE = ("test_scaling_vis", "llava", "not next", "not onevision", "not adaptvis_llava")


def names(smoke: bool) -> list[str]:
    if smoke:
        return list(_FIRST[:1])
    others = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/hf").glob("test_*.py")]
    files = [*_FIRST, *sorted(set(others) - set(_FIRST))]
    for path in _KERNELS:
        below = sorted((ROOT / path).glob("test_*.py")) or [ROOT / path]
        files += [one.relative_to(ROOT).as_posix() for one in below]
    return files


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    parts: dict[str, Any] = {name: partial(_pytest, name, setting) for name in wanted}
    yield from in_turn(parts, wanted)


def _pytest(name: str, setting: Setting) -> Result:
    """Outcomes of one file."""
    options = ["-p", "no:cacheprovider"]
    if setting.smoke:
        options += ["-k", " and ".join(_SMOKE)]
    elif importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(min(4, os.cpu_count() or 1))]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", name, f"--junitxml={report}", *options]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"ADAPTVIS_TEST_DEVICE": "cpu" if setting.smoke else "cuda"},
                timeout=max(setting.time_left(), 1),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeIsOver from None
        if not report.is_file():
            return {"problem": f"pytest ended with {done.returncode} and no report"}
        return _counted(report)


def _counted(report: Path) -> Result:
    """Of pytest's XML: how many there were, and what each failure said."""
    tests = failed = skipped = 0
    problems = []
    reasons = set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        tests += 1
        left_out = case.find("skipped")
        if left_out is not None:
            skipped += 1
            reasons.add((left_out.get("message") or "").strip())
        wrong = case.find("failure")
        wrong = case.find("error") if wrong is None else wrong
        if wrong is not None:
            failed += 1
            message = (wrong.get("message") or "").strip().splitlines()
            problems.append(f"{case.get('name')}: {message[0] if message else ''}"[:300])
    result: Result = {"tests": tests, "failed": failed, "skipped": skipped, "problems": problems}
    result["reasons"] = sorted(reasons - {""})
    if failed:
        result["problem"] = f"{failed} of {tests} failed, the first: {problems[0]}"
    elif not tests:
        result["problem"] = "no test was collected"
    return result


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    lines = ["| tests | passed | skipped |", "|---|---|---|"]
    for name, result in results.items():
        passed = result["tests"] - result["skipped"] - result["failed"]
        lines.append(f"| {name} | {passed} | {result['skipped']} |")
    reasons = {reason for result in results.values() for reason in result.get("reasons", ())}
    if reasons:
        lines += ["", "Skipped were:", "", *(f"- {reason}" for reason in sorted(reasons))]
    return [*lines, ""]


def judge(results: dict[str, Result]) -> list[Judgement]:
    done = [name for name in names(False) if name in results]
    verdict = "met" if len(done) == len(names(False)) else "not met"
    passed = sum(results[name]["tests"] for name in done)
    text = f"{passed} tests in {len(done)} of {len(names(False))} files"
    return [Judgement("exactness tests of every family", "all pass", text, verdict)]
