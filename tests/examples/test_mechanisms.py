"""The examples of the Dual Mechanisms instruments run, and show what their first lines say."""

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples" / "diagnostics"


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_interchange(tmp_path, capsys):
    result = example("interchange").main(tmp_path, pairs=4)
    assert result.accuracy.total == 4
    assert "Exchanging whole strips" in capsys.readouterr().out
    assert (tmp_path / "interchange.png").is_file()


def test_probes(tmp_path, capsys):
    example("probes").main(tmp_path)
    assert "least squares" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "directions.safetensors",
        "probes.json",
        "probes.parquet",
        "probes.png",
    }


def test_amplify(tmp_path, capsys):
    result = example("amplify").main(tmp_path, items=4)
    assert "assistant" in capsys.readouterr().out.lower()
    assert result.alphas == (0, 2, 5, 15)
    assert (tmp_path / "amplification.json").is_file()
