"""The stage of the GPU kit that needs vLLM, on a CPU engine."""

import json
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


def test_answers_in_vllm_are_those_of_transformers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KIT), "--smoke", "--output", str(tmp_path), "vllm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = json.loads((tmp_path / "6_vllm.json").read_text())
    assert page["state"] == "done"
    (result,) = page["results"].values()
    assert result["equal"] == {"idle": 1.0, "scalingvis": 1.0, "adaptvis": 1.0}
