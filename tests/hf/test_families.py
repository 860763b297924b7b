"""The table of families: what is known, what is refused, and how to add one."""

import pytest
import torch
from hf import tiny_families
from hf.helpers import FAMILIES, Case, generate
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig

from adaptvis import ScalingVis, patch, steer, unpatch
from adaptvis.errors import ConfigError, PromptError, UnknownFamilyError, UnsupportedError
from adaptvis.hf import families
from adaptvis.hf.families import Family, family_for, known_families, register_family


def test_every_family_of_the_table_is_tested():
    assert set(known_families()) == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "version", "skips"),
    [
        ("idefics3", "5.16.0", True),
        ("smolvlm", "5.17.1", True),
        ("idefics3", "5.18.0", False),
        ("llava", "5.16.0", False),
    ],
)
def test_only_two_families_are_skipped_for_want_of_torchvision_and_only_before_5_18(
    monkeypatch, family, version, skips
):
    def without_torchvision():
        raise ImportError("Processor requires the Torchvision library but it was not found")

    monkeypatch.setitem(tiny_families._BUILDERS, family, without_torchvision)
    monkeypatch.setattr(tiny_families.transformers, "__version__", version)
    raised = pytest.skip.Exception if skips else ImportError
    with pytest.raises(raised, match="orchvision"):
        tiny_families.build.__wrapped__(family)


def test_a_text_model_is_refused_with_the_known_families():
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=8,
    )
    with pytest.raises(
        UnknownFamilyError, match=r"'llama': known are adaptvis_llava, gemma3.*register_family"
    ):
        patch(LlamaForCausalLM(config), ScalingVis(alpha=2))


def test_a_misspelt_family_gets_a_suggestion():
    config = LlavaConfig()
    config.model_type = "lava"
    with pytest.raises(UnknownFamilyError, match="did you mean 'llava'"):
        family_for(config)


def test_a_declared_family_is_steered(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    case = Case("llava")
    expected = case.reference(1.8)[1]
    monkeypatch.setattr(type(case.model.config), "model_type", "my_llava")
    with pytest.raises(UnknownFamilyError):
        patch(case.model, ScalingVis(alpha=1.8))
    register_family(Family("my_llava", adjacent_images=True))
    with steer(case.model, ScalingVis(alpha=1.8)):
        torch.testing.assert_close(
            generate(case.model, case.inputs)[1], expected, atol=1e-4, rtol=1e-4
        )


def test_a_wrong_layout_and_a_missing_placeholder_are_explained(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    case = Case("llava")
    register_family(Family("llava", decoder="model.brain"))
    with pytest.raises(UnknownFamilyError, match=r"no module 'model\.brain'"):
        patch(case.model, ScalingVis(alpha=2))
    register_family(Family("llava", image_token_id="picture_token"))
    with pytest.raises(UnknownFamilyError, match="no picture_token"):
        patch(case.model, ScalingVis(alpha=2))
    assert "forward" not in case.model.__dict__


def test_generating_from_embeddings_alone_says_that_tokens_are_needed():
    case = Case("llava")
    embeds = case.model.get_input_embeddings()(case.ids)
    with (
        steer(case.model, ScalingVis(alpha=2)),
        pytest.raises(PromptError, match="pass input_ids"),
    ):
        generate(case.model, {"inputs_embeds": embeds})


def test_training_under_steering_is_refused():
    case = Case("llava")
    with (
        steer(case.model, ScalingVis(alpha=2)),
        pytest.raises(UnsupportedError, match="before training"),
    ):
        case.model(**case.inputs, labels=case.ids)


def test_what_is_no_configuration_is_refused():
    model = Case("llava").model
    with pytest.raises(ConfigError, match="NormRescale or Amplify, got dict"):
        patch(model, [{"alpha": 2}])
    with pytest.raises(ConfigError, match="at most one attention method"):
        patch(model, [ScalingVis(alpha=2), ScalingVis(alpha=3)])


def test_unpatching_an_unpatched_model_does_nothing():
    unpatch(Case("llava").model)


def test_an_error_inside_the_block_still_unpatches():
    model = Case("llava").model
    with pytest.raises(RuntimeError, match="boom"), steer(model, ScalingVis(alpha=2)):
        raise RuntimeError("boom")
    assert "forward" not in model.__dict__
