"""The examples of the attention instrument and of the RoPE probe run as they are."""

import importlib.util
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "diagnostics"


def run(name: str, folder: Path) -> None:
    found = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.main(folder, 24)


def test_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("attention", tmp_path)
    assert "unsteered: entropy" in capsys.readouterr().out
    for name in ("attention", "attention_maps"):
        for kind in ("json", "parquet", "png"):
            assert (tmp_path / f"{name}.{kind}").stat().st_size > 100
    assert len(json.loads((tmp_path / "attention.json").read_text())["findings"]) == 3


def test_rope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("rope", tmp_path)
    first, whole = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:4:2])
    assert first > 0.9
    assert first > whole
    assert (tmp_path / "rope.png").stat().st_size > 100
