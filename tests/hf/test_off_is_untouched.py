"""Steering that is off, removed or not applicable leaves every bit of the model's work alone."""

import copy

import pytest
import torch
from hf.helpers import FAMILIES, Case, generate, image

import adaptvis
from adaptvis import AdaptVis, AdaptVisWarning, NormRescale, ScalingVis, patch, steer, unpatch
from adaptvis.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_one_paused_off_and_removed_are_bit_identical(family):
    case = Case(family)
    _, untouched = generate(case.model, case.inputs)
    handle = patch(case.model, ScalingVis(alpha=1))
    assert torch.equal(generate(case.model, case.inputs)[1], untouched)
    assert not handle.last[0].applied
    assert handle.last[0].reason == "alpha is 1"
    with steer(case.model, AdaptVis(alpha_low=1, alpha_high=1)):
        assert torch.equal(generate(case.model, case.inputs)[1], untouched)
    strong = patch(case.model, ScalingVis(alpha=3))
    assert not torch.equal(generate(case.model, case.inputs)[1], untouched)
    with steer(case.model, None):
        assert torch.equal(generate(case.model, case.inputs)[1], untouched)
    with strong.paused(), handle.paused():
        assert torch.equal(generate(case.model, case.inputs)[1], untouched)
    unpatch(case.model)
    assert torch.equal(generate(case.model, case.inputs)[1], untouched)


@pytest.mark.parametrize("family", FAMILIES)
def test_unpatching_leaves_no_trace_on_any_module(family):
    case = Case(family)
    before = {name: dict(module.__dict__) for name, module in case.model.named_modules()}
    config_before = case.model.config.to_dict()
    handle = patch(case.model, [AdaptVis(), NormRescale()])
    generate(case.model, case.inputs)
    handle.remove()
    handle.remove()
    for name, module in case.model.named_modules():
        after = dict(module.__dict__)
        after.pop("rope_deltas", None)
        expected = {key: value for key, value in before[name].items() if key != "rope_deltas"}
        assert after.keys() == expected.keys()
        assert all(after[key] is expected[key] for key in after if key != "_hook_handles")
    assert case.model.config.to_dict() == config_before


def test_a_prompt_without_image_passes_through_bit_identical_and_says_so():
    case = Case("llava", ["where is the cat", "no picture here"], [[image(0)], []])
    _, untouched = generate(case.model, case.inputs)
    with (
        steer(case.model, ScalingVis(alpha=2.0)) as handle,
        pytest.warns(AdaptVisWarning, match="1 of 2 prompts were not steered.*no image tokens"),
    ):
        _, steered = generate(case.model, case.inputs)
    assert torch.equal(steered[:, 1], untouched[:, 1])
    assert not torch.equal(steered[:, 0], untouched[:, 0])
    assert [d.applied for d in handle.last] == [True, False]
    assert handle.last[1].reason == "the prompt has no image tokens"
    assert handle.last[1].alpha == 1.0


def test_a_prompt_whose_branch_is_alpha_one_is_bit_identical_beside_one_that_is_steered():
    case = Case("llava")
    _, untouched = generate(case.model, case.inputs)
    confidence = untouched[0].softmax(-1).amax(-1)
    config = AdaptVis(alpha_low=2.0, alpha_high=1.0, threshold=float(confidence.mean()))
    with steer(case.model, config):
        _, steered = generate(case.model, case.inputs)
    high = int(confidence.argmax())
    assert torch.equal(steered[:, high], untouched[:, high])
    assert not torch.equal(steered[:, 1 - high], untouched[:, 1 - high])


def test_only_text_prompts_warn_and_change_nothing():
    case = Case("qwen2_vl", ["no picture", "none here either"], [[], []])
    _, untouched = generate(case.model, case.inputs)
    with steer(case.model, AdaptVis()), pytest.warns(AdaptVisWarning, match="2 of 2 prompts"):
        assert torch.equal(generate(case.model, case.inputs)[1], untouched)


def test_copying_a_patched_model_is_refused_because_the_copy_would_steer_the_original():
    model = Case("llava").model
    with steer(model, AdaptVis()), pytest.raises(UnsupportedError, match="unpatch"):
        copy.deepcopy(model)
    copy.deepcopy(model)


def test_the_signature_that_generate_validates_against_stays():
    import inspect

    model = Case("llava").model
    before = inspect.signature(model.forward)
    with adaptvis.steer(model, AdaptVis()):
        assert inspect.signature(model.forward) == before
