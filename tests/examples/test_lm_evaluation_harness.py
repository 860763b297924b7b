"""A patched model in lm-evaluation-harness answers what adaptvis's own engine answers."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")
EXAMPLE = Path(__file__).parents[2] / "examples" / "lm_evaluation_harness.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    found = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_harness_sees_the_steered_answers(example: ModuleType) -> None:
    engine = HFEngine.load(example.resolve_model(example.MODEL).source)
    samples = get_task("2ds").load(20)
    wanted = engine.answer([s.query() for s in samples], [None, example.STEERED])
    assert [a.text for a in wanted[0]] != [a.text for a in wanted[1]]
    for config, answers in zip((None, example.STEERED), wanted, strict=True):
        accuracy, texts = example.accuracy(engine.model, config, 20)
        assert texts == [a.text for a in answers]
        right = [
            get_task("2ds").grade(s, a.text).correct for s, a in zip(samples, answers, strict=True)
        ]
        assert accuracy == pytest.approx(sum(right) / 20)
