"""NormRescale: image-token norms at the decoder's input."""

import copy

import pytest
import torch
from hf.helpers import FAMILIES, Case, generate, image

from adaptvis import NormRescale, ScalingVis, patch, steer
from adaptvis.hf.norms import text_embedding_norms
from adaptvis.steering.norms import rescale_norms

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


def decoder_input(case: Case) -> torch.Tensor:
    """[image tokens, D]: what the text decoder receives at the image tokens."""
    seen = {}

    def hook(module, args, kwargs):
        seen["embeds"] = kwargs["inputs_embeds"].detach().clone()

    handle = case.decoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            case.model(**case.inputs)
    finally:
        handle.remove()
    return seen["embeds"][case.columns]


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_reach_the_decoder_with_the_mean_norm_of_text(family):
    case = Case(family)
    ids = torch.arange(case.model.get_input_embeddings().weight.shape[0])
    text = case.model.get_input_embeddings()(ids).norm(dim=-1)
    plain = decoder_input(case)
    with steer(case.model, NormRescale()):
        rescaled = decoder_input(case)
    torch.testing.assert_close(
        rescaled.norm(dim=-1), text.mean().expand(len(rescaled)), rtol=1e-4, atol=1e-5
    )
    cosine = torch.nn.functional.cosine_similarity(plain, rescaled, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(decoder_input(case), plain)


def test_clip_caps_outliers_and_leaves_the_rest_alone():
    case = Case("llava")
    norms = decoder_input(case).norm(dim=-1)
    cap = float(norms.median())
    with steer(case.model, NormRescale(target=None, clip=cap)):
        clipped = decoder_input(case).norm(dim=-1)
    torch.testing.assert_close(clipped, norms.clamp(max=cap), rtol=1e-5, atol=1e-6)


def test_text_clip_is_the_longest_text_embedding():
    case = Case("llava")
    longest = text_embedding_norms(case.model.get_input_embeddings()).max()
    with steer(case.model, NormRescale(target=1e6, clip="text")):
        norms = decoder_input(case).norm(dim=-1)
    torch.testing.assert_close(norms, longest.expand_as(norms), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llava", "adaptvis_llava"])
def test_norms_and_attention_steering_compose_in_one_patch_or_two(family):
    case = Case(family)
    # The oracle: attention steered by the tests, norms by a hook on the projector.
    projector = case.model.model.multi_modal_projector
    hook = projector.register_forward_hook(
        lambda module, args, out: 3.0 * torch.nn.functional.normalize(out, dim=-1)
    )
    expected = case.reference(1.8)[1]
    hook.remove()
    with steer(case.model, [ScalingVis(alpha=1.8), NormRescale(target=3.0)]):
        together = generate(case.model, case.inputs)[1]
    outer = patch(case.model, NormRescale(target=3.0))
    with steer(case.model, ScalingVis(alpha=1.8)):
        stacked = generate(case.model, case.inputs)[1]
    outer.remove()
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(together, stacked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_formula_in_float32_whatever_the_type(dtype):
    torch.manual_seed(0)
    vectors = torch.randn(5, 7, 16).to(dtype) * 10
    vectors[0, 0] = 0
    result = rescale_norms(vectors, target=2.0, clip=1.5)
    assert result.dtype == dtype
    assert torch.equal(result[0, 0], torch.zeros(16, dtype=dtype))
    wide = vectors.double()
    expected = wide / wide.norm(dim=-1, keepdim=True) * 1.5
    torch.testing.assert_close(result[1:], expected[1:].to(dtype), rtol=1e-2, atol=1e-3)


def test_a_model_made_in_inference_mode_is_rescaled_as_any_other():
    case = Case("llava")
    with steer(case.model, NormRescale()):
        expected = generate(case.model, case.inputs)[1]
    with torch.inference_mode():
        model = copy.deepcopy(case.model).double().float()
        with steer(model, NormRescale()):
            logits = generate(model, case.inputs)[1]
    torch.testing.assert_close(logits, expected)


def test_a_table_that_is_offloaded_between_calls_is_measured():
    from accelerate import cpu_offload

    case = Case("llava")
    with steer(case.model, NormRescale(clip="text")):
        expected = generate(case.model, case.inputs)[1]
    model = cpu_offload(copy.deepcopy(case.model), execution_device=torch.device("cpu"))
    with steer(model, NormRescale(clip="text")):
        assert torch.equal(generate(model, case.inputs)[1], expected)


def test_norms_of_text_follow_an_adapter_on_the_embeddings():
    peft = pytest.importorskip("peft")

    case = Case("llava")
    torch.manual_seed(0)
    adapter = peft.LoraConfig(r=4, target_modules=["embed_tokens"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(case.model), adapter).eval()
    case.model, case.decoder = model, model.get_base_model().model.language_model
    ids = torch.arange(model.get_base_model().config.text_config.vocab_size)

    def norms():
        with torch.no_grad():
            text = model.get_base_model().get_input_embeddings()(ids).norm(dim=-1).mean()
        return decoder_input(case).norm(dim=-1).mean(), text

    with steer(model, NormRescale()):
        torch.testing.assert_close(*norms())
        with model.disable_adapter():
            torch.testing.assert_close(*norms())
        torch.testing.assert_close(*norms())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_videos_tokens_are_left_alone_whatever_makes_them(family):
    case = Case(family, ["where is the cat"], [[image(0)]])
    config = case.model.config
    video = [config.vision_start_token_id, *[config.video_token_id] * 4, config.vision_end_token_id]
    ids = torch.cat([case.ids[:, :1], torch.tensor([video]), case.ids[:, 1:]], dim=1)
    case.columns = ids == config.image_token_id
    videos = ids == config.video_token_id
    case.inputs = {
        **case.inputs,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": case.columns + 2 * videos,
        "pixel_values_videos": torch.randn(16, case.inputs["pixel_values"].shape[1]),
        "video_grid_thw": torch.tensor([[1, 4, 4]]),
    }
    images, case.columns = case.columns, videos
    plain = decoder_input(case)
    with steer(case.model, NormRescale(target=3.0)):
        assert torch.equal(decoder_input(case), plain)
        case.columns = images
        norms = decoder_input(case).norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, 3.0))
