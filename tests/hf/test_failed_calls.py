"""What is said of calls that fail, and of models whose logits are no numbers."""

import copy
import math

import pytest
import torch
from hf.helpers import Case, generate, image

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis, patch, steer
from adaptvis.engine import Query
from adaptvis.hf.engine import HFEngine

PROMPTS = ["where is the cat", "where is the dog"]


@pytest.fixture
def overflowing():
    """A model whose activations overflow behind the word dog."""
    case = Case("llava", PROMPTS)
    model = copy.deepcopy(case.model)
    dog = case.processor.tokenizer.convert_tokens_to_ids("dog")
    assert dog in case.ids[1]
    with torch.no_grad():
        model.get_input_embeddings().weight[dog] = torch.inf
    return case, model


@pytest.mark.parametrize("config", [AdaptVis(), ScalingVis(alpha=1.8)])
def test_a_prompt_whose_logits_are_no_numbers_does_not_count_as_steered(overflowing, config):
    case, model = overflowing
    with steer(model, config) as handle:
        generate(model, case.inputs)
        with pytest.warns(AdaptVisWarning, match="1 of 2 prompts: the confidence is not a number"):
            fine, wrong = handle.last
    assert (fine.applied, fine.reason) == (True, "")
    assert not wrong.applied
    assert "not a number" in wrong.reason


def test_answers_of_a_model_without_numbers_say_so_steered_or_not(overflowing):
    case, model = overflowing
    engine = HFEngine(model, case.processor)
    queries = [Query(prompt, (image(0),)) for prompt in PROMPTS]
    with pytest.warns(AdaptVisWarning, match="not a number"):
        results = engine.answer(queries, [None, AdaptVis()], max_new_tokens=1)
    for fine, wrong in results:
        assert math.isfinite(fine.confidence)
        assert "not a number" not in fine.reason
        assert math.isnan(wrong.confidence)
        assert not wrong.applied
        assert "not a number" in wrong.reason


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}],
)
@pytest.mark.parametrize("rows", ["last_prompt_token", "generated"])
def test_a_prompt_that_ends_in_padding_is_left_alone_whatever_the_cache(rows, options):
    case = Case("llava", ["what", "right or left"])
    case.processor.tokenizer.padding_side = "right"
    try:
        inputs = Case("llava", case.prompts).inputs
    finally:
        case.processor.tokenizer.padding_side = "left"
    assert inputs["attention_mask"][:, -1].tolist() == [0, 1]
    untouched = generate(case.model, inputs, **options)[1]
    with (
        steer(case.model, ScalingVis(alpha=1.8, rows=rows)) as handle,
        pytest.warns(AdaptVisWarning, match="ends in padding"),
    ):
        logits = generate(case.model, inputs, **options)[1]
    assert [decision.applied for decision in handle.last] == [False, True]
    torch.testing.assert_close(logits[:, 0], untouched[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits[:, 1], untouched[:, 1])


@torch.no_grad()
def test_a_forward_call_that_failed_leaves_no_decision_of_an_earlier_one():
    case = Case("llava", PROMPTS[:1])
    model = copy.deepcopy(case.model)
    handle = patch(model, ScalingVis(alpha=1.8))
    inputs = {**case.inputs, "logits_to_keep": 1}
    model(**inputs)
    assert handle.last[0].applied
    with pytest.raises(ValueError, match="tokens"):
        model(**{**inputs, "pixel_values": torch.cat([inputs["pixel_values"]] * 2)})
    assert handle.last == []
    model(**inputs)
    assert handle.last[0].applied
    with pytest.raises(Exception, match="attention_mask"), handle.scoring(3):
        model(**{**inputs, "attention_mask": inputs["attention_mask"][:, :2]})
    assert handle.last == []
