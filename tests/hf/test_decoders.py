"""Text decoders unlike LLaMA: own attention, soft-caps, linear attention, checkpointing."""

import copy

import pytest
import torch
import transformers
from hf.eager_reference import Spec, reference_generate
from hf.helpers import TOLERANCE, Case, generate

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis, steer
from adaptvis.engine import Query
from adaptvis.errors import UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.families import _FAMILIES, Family, family_for, register_family
from adaptvis.hf.image_attention import image_attention
from adaptvis.hf.self_check.tiny_models import randomise, text_config, vision_config

CONFIG = ScalingVis(alpha=1.8)
IMAGE = 5


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def ready(model):
    randomise(model, 0)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.float().eval().requires_grad_(False)


def llava_over(text, case):
    config = transformers.LlavaConfig(
        vision_config=vision_config("clip_vision_model", 56, 8, projection_dim=32),
        text_config=text,
        image_token_id=case.model.config.image_token_id,
        image_seq_length=49,
    )
    torch.manual_seed(0)
    return ready(transformers.LlavaForConditionalGeneration(config))


SMALL = {
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
OWN_ATTENTION = {
    "falcon": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "alibi": False,
        "multi_query": False,
    },
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 512},
}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [(kind, "last_prompt_token") for kind in OWN_ATTENTION]
    + [("bloom", "generated"), ("bloom", "text_after_image")],
)
def test_a_decoder_with_attention_of_its_own_is_refused_not_called_steered(kind, rows):
    case = Case("llava")
    model = llava_over({"model_type": kind, **SMALL, **OWN_ATTENTION[kind]}, case)
    plain = generate(model, case.inputs)[1]
    with steer(model, ScalingVis(alpha=1.8, rows=rows)) as handle:
        with pytest.raises(UnsupportedError, match=f"{kind}.*on its own"):
            generate(model, case.inputs)
        assert not any(decision.applied for decision in handle.last)
    assert torch.equal(generate(model, case.inputs)[1], plain)


def test_the_attention_map_of_a_decoder_with_attention_of_its_own_is_refused_too():
    case = Case("llava", ["where is the cat"])
    model = llava_over({"model_type": "bloom", **SMALL, **OWN_ATTENTION["bloom"]}, case)
    engine = HFEngine(model, case.processor)
    with pytest.raises(UnsupportedError, match="on its own"):
        image_attention(engine, Query("where is the cat", tuple(case.images[0])))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_soft_caps_are_those_of_the_models_own_attention(attention):
    case = Case("llava")
    text = text_config(
        "gemma2", 320, query_pre_attn_scalar=16, sliding_window=512, attn_logit_softcapping=2.0
    )
    model = llava_over(text, case)
    try:
        model.set_attn_implementation(attention)
    except ValueError as refusal:
        pytest.skip(f"this transformers has no such Gemma 2: {refusal}")
    plain = generate(model, case.inputs)[1]
    with steer(model, ScalingVis(alpha=1.000001)):
        close(generate(model, case.inputs)[1], plain)
    # Scaled dot-product attention leaves soft-caps out, in transformers and so under steering.
    model.model.language_model.config.attn_logit_softcapping = 2.0 if attention == "eager" else None
    for layer in model.model.language_model.layers:
        layer.self_attn.attn_logit_softcapping = 2.0 if attention == "eager" else None
    spec = Spec(case.last_row, case.columns, torch.tensor([1.8, 1.8]))
    decoder = family_for(model.config).decoder_of(model)
    expected = reference_generate(model, decoder, case.inputs, spec, 4)[1]
    for layer in model.model.language_model.layers:
        layer.self_attn.attn_logit_softcapping = 2.0
    with steer(model, CONFIG):
        close(generate(model, case.inputs)[1], expected)


def lfm2_vl():
    """Convolutions around one layer of attention, as in LFM2-VL."""
    config = transformers.Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_patches": 16,
            "patch_size": 4,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2",
            **SMALL,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        image_token_id=IMAGE,
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    ids = torch.tensor(
        [[1, 20, *[IMAGE] * 4, 30, 31, 32, 33], [1, 40, *[IMAGE] * 4, 41, 42, 43, 44]]
    )
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 16, 48),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
    }
    return ready(transformers.Lfm2VlForConditionalGeneration(config)), inputs


@pytest.fixture
def hybrid(monkeypatch):
    monkeypatch.setattr("adaptvis.hf.families._FAMILIES", dict(_FAMILIES))
    register_family(Family("lfm2_vl"))
    return lfm2_vl()


def test_a_hybrid_decoder_is_steered_and_leaves_a_prompt_of_alpha_one_to_the_bit(hybrid):
    model, inputs = hybrid
    columns = inputs["input_ids"] == IMAGE
    rows = torch.zeros_like(columns)
    rows[:, -1] = True
    plain = generate(model, inputs)[1]
    confidence = plain[0].softmax(-1).amax(-1)
    low, high = confidence.argsort().tolist()
    config = AdaptVis(alpha_low=1.0, alpha_high=1.8, threshold=float(confidence.mean()))
    with steer(model, config) as handle:
        got = generate(model, inputs)[1]
    assert [handle.last[i].applied for i in (low, high)] == [False, True]
    assert torch.equal(got[:, low], plain[:, low])
    alpha = torch.where(confidence < confidence.mean(), 1.0, 1.8)
    decoder = family_for(model.config).decoder_of(model)
    close(got, reference_generate(model, decoder, inputs, Spec(rows, columns, alpha), 4)[1])


def test_layers_without_softmax_attention_are_refused_by_name(hybrid):
    model, inputs = hybrid
    with (
        steer(model, ScalingVis(alpha=1.8, layers=[0, 1])),
        pytest.raises(UnsupportedError, match=r"Layers 0 .* name some of 1$"),
    ):
        generate(model, inputs)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("call", ["generate", "forward"])
def test_gradient_checkpointing_in_training_mode_is_refused_in_words_or_harmless(call, gradients):
    case = Case("llava")
    model = copy.deepcopy(case.model).train()
    model.gradient_checkpointing_enable()
    expected = case.reference(1.8)[1]
    run = model if call == "forward" else model.generate
    with torch.set_grad_enabled(gradients), steer(model, CONFIG):
        refused = ""
        try:
            run(**case.inputs, **({} if call == "forward" else {"max_new_tokens": 1}))
        except UnsupportedError as refusal:
            refused = str(refusal)
        if refused:
            assert "call model.eval()" in refused
        else:
            # From transformers 5.24 on it drops no cache where no gradient is asked for.
            assert call == "generate" or not gradients
            close(generate(model, case.inputs)[1], expected)
    model.eval()
    with steer(model, CONFIG):
        close(generate(model, case.inputs)[1], expected)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_asking_an_sdpa_model_for_attentions_gives_what_it_gives_unsteered(family):
    case = Case(family)
    with torch.no_grad():
        plain = case.model(**case.inputs, output_attentions=True)
        with steer(case.model, CONFIG):
            steered = case.model(**case.inputs, output_attentions=True)
    assert steered.attentions == plain.attentions
    close(steered.logits[:, -1], case.reference(1.8, steps=1)[1][0])


def test_a_call_that_goes_past_the_patch_says_so():
    case = Case("llava")
    with (
        torch.no_grad(),
        steer(case.model, CONFIG),
        pytest.warns(AdaptVisWarning, match="ran past"),
    ):
        case.model.model(**case.inputs)
