"""Steered generation equals an independent eager implementation, for every family."""

import pytest
import torch
from hf.helpers import FAMILIES, TOLERANCE, Case, generate, image

from adaptvis import AdaptVis, ScalingVis, patch, steer

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


def assert_same(actual, expected) -> None:
    torch.testing.assert_close(actual[1], expected[1], atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(actual[0], expected[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_vis_equals_eager_steering_in_a_batch_of_unequal_prompts(family):
    case = Case(family)
    with steer(case.model, ScalingVis(alpha=1.7)) as handle:
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(1.7))
    plain = generate(case.model, case.inputs)
    assert (steered[1][0] - plain[1][0]).abs().max() > 100 * TOLERANCE, "steering changed nothing"
    assert [(d.alpha, d.applied) for d in handle.last] == [(pytest.approx(1.7), True)] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_adapt_vis_picks_alpha_per_prompt_from_the_unsteered_confidence(family):
    case = Case(family)
    plain = case.reference(None)[1][0].softmax(-1).amax(-1)
    threshold = float(plain.mean())
    expected = torch.where(plain < threshold, 0.4, 1.6)
    assert len(set(expected.tolist())) == 2, "both branches are needed for this test to mean much"
    with steer(case.model, AdaptVis(alpha_low=0.4, alpha_high=1.6, threshold=threshold)) as handle:
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(expected))
    assert [d.alpha for d in handle.last] == pytest.approx(expected.tolist())
    assert [d.confidence for d in handle.last] == pytest.approx(plain.tolist(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_rows_equal_eager_steering(family):
    case = Case(family)
    with steer(case.model, ScalingVis(alpha=0.6, rows="generated")):
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(0.6, generated_rows=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_text_rows_after_the_image_equal_eager_steering(family):
    case = Case(family)
    with steer(case.model, ScalingVis(alpha=1.5, rows="text_after_image")):
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(1.5, rows=case.text_rows()))


@pytest.mark.parametrize("rows", ["last_prompt_token", "generated", "text_after_image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_each_prompt_what_it_gets_alone(family, rows):
    case = Case(family)
    config = ScalingVis(alpha=2.0, rows=rows)
    with steer(case.model, config):
        _, batched = generate(case.model, case.inputs)
        for index in range(len(case.prompts)):
            _, alone = generate(case.model, case.alone(index).inputs)
            torch.testing.assert_close(
                batched[:, index], alone[:, 0], atol=TOLERANCE, rtol=TOLERANCE
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_several_images_are_steered_together_or_by_choice(family):
    case = Case(
        family,
        ["where is the cat", "left or right of the dog"],
        [[image(0), image(1, 40, 56)], [image(2), image(3)]],
    )
    with steer(case.model, ScalingVis(alpha=1.6)):
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(1.6))


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_layers_and_heads_only(family):
    case = Case(family)
    with steer(case.model, ScalingVis(alpha=2.5, layers=[1], heads=[0, 2])):
        steered = generate(case.model, case.inputs)
    assert_same(steered, case.reference(2.5, layers=(1,), heads=(0, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_forward_call_is_steered_like_generate(family):
    case = Case(family)
    with patch_and_remove(case.model, ScalingVis(alpha=1.7)), torch.no_grad():
        logits = case.model(**case.alone(1).inputs).logits[:, -1]
    expected = case.alone(1).reference(1.7, steps=1)[1][0]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE)


class patch_and_remove:
    def __init__(self, model, config):
        self.model, self.config = model, config

    def __enter__(self):
        self.handle = patch(self.model, self.config)

    def __exit__(self, *_):
        self.handle.remove()
