"""The examples of the diagnostics run, and find what they say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "diagnostics"


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_norms_come_down_to_those_of_text(tmp_path: Path) -> None:
    means = example("norms").main(tmp_path, questions=12)
    assert means["as it is"] > 10 * means["rescaled"]
    assert (tmp_path / "rescaled" / "norms.png").is_file()


def test_permutation_costs_the_converged_model_its_answers(tmp_path: Path) -> None:
    assert example("permutation").main(tmp_path, questions=30) > 0.3
    assert (tmp_path / "permutation.parquet").is_file()


def test_compression_costs_the_converged_model_its_answers(tmp_path: Path) -> None:
    accuracies = example("compression").main(tmp_path, questions=30)
    assert list(accuracies) == ["49", "16", "4", "1", "shortcut"]
    assert accuracies["49"] > accuracies["1"] + 0.3


def test_the_report_holds_an_instrument_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = example("report").main(tmp_path / "out", questions=6).read_text(encoding="utf-8")
    assert page.count("Lengths of the prompts") >= 2
    assert page.count("Prompts are short") == 1
    assert "does not hold" not in page
