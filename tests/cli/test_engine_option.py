"""`--engine`: which engine answers, and what is said where vLLM is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli import models
from adaptvis.vllm import plugin
from adaptvis.vllm.known_versions import Verdict


def test_vllm_that_is_not_installed_is_named_with_the_command_that_installs_it(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    for command in (("eval",), ("tune", "--model", "tiny-2ds-seed1")):
        result = adaptvis(*command, "--engine", "vllm")
        assert_one_sentence(result, "not installed", "pip install 'adaptvis[vllm]'")


def test_an_unknown_engine_is_answered_with_the_known_ones(adaptvis: Adaptvis) -> None:
    result = adaptvis("eval", "--engine", "vlm")
    assert_one_sentence(result, "Unknown engine 'vlm'", "did you mean 'vllm'?", "hf")


def test_an_unknown_vllm_is_named_with_what_differs(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Verdict("0.99.1", "0.33.0", False, ("AsyncLLM.generate is missing",))
    monkeypatch.setattr(models, "vllm_is_installed", lambda: True)
    monkeypatch.setattr(plugin, "verdict", lambda: unknown)
    result = adaptvis("eval", "--engine", "vllm", "--limit", 2)
    words = ("vLLM 0.99.1", "AsyncLLM.generate is missing", "ADAPTVIS_UNTESTED=1")
    assert_one_sentence(result, *words)
    assert "Cannot load" not in result.err


def test_both_engines_write_the_same_answers_and_vllm_is_silent(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    pytest.importorskip("vllm.sampling_params")
    model = "tiny-2ds-shortcut-seed1"
    arguments = ["eval", "--model", model, "--task", "2ds", "--limit", 20, "--examples", 0]
    result = adaptvis(*arguments, "--output", tmp_path / "hf")
    assert result.code == 0, result.err
    arguments += ["--engine", "vllm", "--output", tmp_path / "vllm"]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_LOG")}
    # Its own process: vLLM's would inherit the real stderr, which is not captured in this one.
    ran = subprocess.run(
        [sys.executable, "-m", "adaptvis", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=quiet,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    noise = [line for line in ran.stderr.splitlines() if not line.startswith((model, "note: "))]
    assert noise == []
    written = {}
    for engine in ("hf", "vllm"):
        summary = json.loads((tmp_path / engine / "summary.json").read_text())
        assert summary["engines"][model]["engine"] == engine
        lines = (tmp_path / engine / "records.jsonl").read_text().splitlines()
        written[engine] = [json.loads(line) for line in lines]
    for own, other in zip(written["vllm"], written["hf"], strict=True):
        assert own.pop("confidence") == pytest.approx(other.pop("confidence"), abs=1e-4)
        assert own.pop("alpha") == pytest.approx(other.pop("alpha"))
        assert own == other
