"""Amplify: the directions of image tokens at the decoder's input, and nothing else."""

import copy

import pytest
import torch
from hf.helpers import FAMILIES, Case, generate, image
from hf.test_norms import decoder_input

from adaptvis import AdaptVis, Amplify, NormRescale, ScalingVis, patch, steer, unpatch
from adaptvis.engine import Query
from adaptvis.errors import ConfigError
from adaptvis.hf.engine import HFEngine
from adaptvis.steering.directions import write_directions

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")

ALPHA = 6.0


def directions_file(folder, case, seed=0):
    width = case.model.get_input_embeddings().weight.shape[1]
    torch.manual_seed(seed)
    vectors = {"horizontal": torch.randn(width), "vertical": torch.randn(width)}
    return write_directions(folder / f"directions-{seed}.safetensors", vectors, {}), vectors


def amplified(h, vectors, alpha=ALPHA):
    """Float64, token by token, axis by axis."""
    result = []
    for token in h.double():
        new = token.clone()
        for w in vectors:
            w = w.double()
            new += alpha * sum(token * w) / (sum(w * w) + 1e-8) * w
        result.append(new)
    return torch.stack(result).to(h.dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_reach_the_decoder_amplified_and_text_as_it_was(tmp_path, family):
    case = Case(family)
    path, vectors = directions_file(tmp_path, case)
    plain = decoder_input(case)
    with steer(case.model, Amplify(directions=path, alpha=ALPHA)):
        changed = decoder_input(case)
    torch.testing.assert_close(changed, amplified(plain, vectors.values()), rtol=2e-5, atol=2e-5)
    with steer(case.model, Amplify(directions=path, alpha=ALPHA, axes="vertical")):
        changed = decoder_input(case)
    expected = amplified(plain, [vectors["vertical"]])
    torch.testing.assert_close(changed, expected, rtol=2e-5, atol=2e-5)
    assert torch.equal(decoder_input(case), plain)


@pytest.mark.parametrize("others", [[], [NormRescale(target=3.0)], [ScalingVis(alpha=1.8)]])
def test_generation_agrees_with_edited_projections_and_eager_attention(tmp_path, others):
    case = Case("llava")
    path, vectors = directions_file(tmp_path, case)

    def edit(module, args, out):
        if any(isinstance(config, NormRescale) for config in others):
            out = 3.0 * torch.nn.functional.normalize(out, dim=-1)
        return amplified(out.flatten(0, -2), vectors.values()).view_as(out)

    hook = case.model.model.multi_modal_projector.register_forward_hook(edit)
    scaled = any(isinstance(config, ScalingVis) for config in others)
    tokens, expected = case.reference(1.8 if scaled else None)
    hook.remove()
    # Norms are rescaled first, whatever the order of the list.
    with steer(case.model, [Amplify(directions=path, alpha=ALPHA), *others]):
        steered_tokens, logits = generate(case.model, case.inputs)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(steered_tokens, tokens)
    outer = patch(case.model, Amplify(directions=path, alpha=ALPHA))
    with steer(case.model, others or Amplify(directions=path, alpha=ALPHA)):
        assert torch.equal(generate(case.model, case.inputs)[1], logits)
    outer.remove()


def test_it_composes_with_adaptvis_whose_decision_it_may_change(tmp_path):
    case = Case("llava")
    path, _ = directions_file(tmp_path, case)
    both = [AdaptVis(threshold=1.0, alpha_low=1.7), Amplify(directions=path, alpha=ALPHA)]
    with steer(case.model, both) as handle:
        adaptive = generate(case.model, case.inputs)[1]
        assert [d.alpha for d in handle.last] == pytest.approx([1.7, 1.7])
    with steer(case.model, [ScalingVis(alpha=1.7), both[1]]):
        assert torch.equal(generate(case.model, case.inputs)[1], adaptive)


def test_off_is_bit_identical_and_leaves_no_trace(tmp_path):
    case = Case("llava")
    path, _ = directions_file(tmp_path, case)
    before = generate(case.model, case.inputs)[1]
    handle = patch(case.model, Amplify(directions=path, alpha=ALPHA))
    assert "Amplify(" in repr(handle)
    assert not torch.equal(generate(case.model, case.inputs)[1], before)
    with handle.paused():
        assert torch.equal(generate(case.model, case.inputs)[1], before)
    off = patch(case.model, None)
    assert torch.equal(generate(case.model, case.inputs)[1], before)
    off.remove()
    unpatch(case.model)
    assert torch.equal(generate(case.model, case.inputs)[1], before)
    assert "get_image_features" not in case.model.model.__dict__


def test_an_engine_answers_each_request_under_its_own_configuration_only(tmp_path):
    case = Case("llava")
    own, _ = directions_file(tmp_path, case)
    other, _ = directions_file(tmp_path, case, seed=1)
    engine = HFEngine(case.model, case.processor)
    prompt = "<image> where is the cat"
    queries = [Query(prompt, (image(i),), raw=True) for i in range(2)]
    configs = [
        None,
        Amplify(directions=own, alpha=ALPHA),
        ScalingVis(alpha=1.5),
        Amplify(directions=other, alpha=ALPHA),
        NormRescale(),
    ]
    together = engine.answer(queries, configs, max_new_tokens=3)
    alone = [engine.answer(queries, [config], max_new_tokens=3)[0] for config in reversed(configs)]
    for given, expected in zip(together, reversed(alone), strict=True):
        assert [a.token_ids for a in given] == [a.token_ids for a in expected]
        assert [a.confidence for a in given] == pytest.approx([a.confidence for a in expected])
        assert all(a.applied or a.reason == "steering is off" for a in given)
    assert len({answers[0].confidence for answers in (together[0], *together[1::2])}) == 3


def test_directions_of_another_model_and_two_amplifications_are_refused(tmp_path):
    case = Case("llava")
    path = write_directions(tmp_path / "wide.safetensors", {"a": torch.ones(5)}, {})
    with pytest.raises(ConfigError, match="holds directions of 5 numbers, but this model's"):
        patch(case.model, Amplify(directions=path, alpha=1.0))
    assert "get_image_features" not in case.model.model.__dict__
    assert "_adaptvis_stack" not in case.model.__dict__
    path, _ = directions_file(tmp_path, case)
    config = Amplify(directions=path, alpha=1.0)
    with pytest.raises(ConfigError, match="and one Amplify, got 0, 0 and 2"):
        patch(case.model, [config, config])


def test_a_model_whose_embeddings_are_offloaded_is_amplified_too(tmp_path):
    from accelerate import cpu_offload

    case = Case("llava")
    config = Amplify(directions=directions_file(tmp_path, case)[0], alpha=ALPHA)
    with steer(case.model, config):
        expected = generate(case.model, case.inputs)[1]
    model = cpu_offload(copy.deepcopy(case.model), execution_device=torch.device("cpu"))
    with steer(model, config):
        assert torch.equal(generate(model, case.inputs)[1], expected)
