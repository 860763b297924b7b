"""A patched model in lm-evaluation-harness answers what adaptvis's own engine answers."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from adaptvis import ScalingVis, steer
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


def likelihoods(engine: HFEngine, config: Any, sample: Any, answers: list[str]) -> list[float]:
    """Log-likelihood of each answer, decoded token by token behind its prompt."""
    tokenizer = engine.processor.tokenizer
    found = []
    for answer in answers:
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        to_come = iter(tokens)

        def force(_: Any, scores: Any, to_come: Any = to_come) -> Any:
            chosen = torch.full_like(scores, float("-inf"))
            chosen[:, next(to_come)] = 0
            return chosen

        with steer(engine.model, config), torch.inference_mode():
            logits = engine.model.generate(
                **engine.encode([sample.query()]),
                max_new_tokens=len(tokens),
                min_new_tokens=len(tokens),
                do_sample=False,
                logits_processor=[force],
                output_logits=True,
                return_dict_in_generate=True,
            ).logits
        pairs = zip(logits, tokens, strict=True)
        found.append(sum(float(step[0].log_softmax(-1)[token]) for step, token in pairs))
    return found


def test_multiple_choice_scores_what_decoding_the_candidates_gives(example: ModuleType) -> None:
    engine = HFEngine.load(example.resolve_model(example.MODEL).source)
    samples = get_task("2ds").load(6)
    plain = [likelihoods(engine, None, s, list(s.candidates)) for s in samples]
    wanted = [likelihoods(engine, example.STEERED, s, list(s.candidates)) for s in samples]
    accuracy, scores = example.evaluate(engine.model, example.STEERED, example.multiple_choice(6))
    for mine, expected, before in zip(scores, wanted, plain, strict=True):
        assert mine == pytest.approx(expected, abs=1e-3)
        assert mine != pytest.approx(before, abs=1e-2)
    best = [s.candidates[w.index(max(w))] for s, w in zip(samples, wanted, strict=True)]
    right = [answer in s.gold for answer, s in zip(best, samples, strict=True)]
    assert accuracy == pytest.approx(sum(right) / len(right))


def test_captions_of_several_tokens_and_unequal_prompts_are_scored(example: ModuleType) -> None:
    engine = HFEngine.load(example.resolve_model(example.MODEL).source)
    samples = get_task("2ds").load(2)
    captions = ["red", "the red square is left of the circle"]
    config = ScalingVis(alpha=3.0)
    with steer(engine.model, config) as handle:
        model = example.ScoringLM(handle, pretrained=engine.model, batch_size=4, max_length=512)
        requests = []
        for sample in samples:
            line = {"role": "user", "content": "<image>" + sample.prompt}
            context = model.apply_chat_template([line])
            for caption in captions:
                arguments = (context, " " + caption, {"visual": [sample.images()[0]]})
                requests.append(example.Instance("loglikelihood", {}, arguments, 0))
        scores = [score for score, _ in model.loglikelihood(requests)]
        assert all(decision.applied for decision in handle.last)
    expected = [value for s in samples for value in likelihoods(engine, config, s, captions)]
    assert scores == pytest.approx(expected, abs=1e-3)
    plain = [value for s in samples for value in likelihoods(engine, None, s, captions)]
    assert all(abs(a - b) > 1e-2 for a, b in zip(scores, plain, strict=True))
