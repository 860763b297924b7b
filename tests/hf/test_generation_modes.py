"""Caches, attention implementations, decoding strategies and ways of loading a model."""

import copy
import functools
import threading

import pytest
import torch
from hf.eager_reference import Spec, reference_generate
from hf.helpers import CACHE, TOLERANCE, Case, generate, image
from torch import nn
from transformers import DynamicCache, StaticCache

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis, patch, steer, unpatch
from adaptvis.errors import PromptError, UnsupportedError
from adaptvis.hf.families import family_for

CONFIG = ScalingVis(alpha=1.8)


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "paligemma"])
@pytest.mark.filterwarnings("ignore")
def test_every_base_attention_gives_the_eager_answer(family, attention):
    case = Case(family)
    expected = case.reference(1.8)[1]
    decoder = case.decoder
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = attention
    try:
        # Flex attention compiles itself, which takes a minute and proves nothing here.
        with torch.compiler.set_stance("force_eager"):
            _, plain = generate(case.model, case.inputs)
            with steer(case.model, CONFIG):
                _, steered = generate(case.model, case.inputs)
            assert decoder.config._attn_implementation == attention
            assert torch.equal(generate(case.model, case.inputs)[1], plain)
    finally:
        decoder.config._attn_implementation = before
    close(steered, expected)


@pytest.mark.parametrize("rows", ["last_prompt_token", "generated", "text_after_image"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "paligemma"])
@pytest.mark.parametrize("cache", ["static", "none", "user"])
def test_every_cache_gives_the_eager_answer(family, cache, rows):
    case = Case(family)
    chosen = {"rows": case.text_rows()} if rows == "text_after_image" else {}
    expected = case.reference(1.8, generated_rows=rows == "generated", **chosen)[1]
    options = {"use_cache": False} if cache == "none" else {"cache_implementation": cache}
    if cache == "user":
        options = {CACHE: DynamicCache(config=case.decoder.config)}
    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)):
        close(generate(case.model, case.inputs, disable_compile=True, **options)[1], expected)


def test_a_static_cache_shorter_than_the_window_and_one_longer_agree():
    case = Case("gemma3")
    expected = case.reference(1.8)[1]
    for length in (case.ids.shape[1] + 4, 64):
        cache = StaticCache(config=case.decoder.config, max_cache_len=length)
        with steer(case.model, CONFIG):
            _, steered = generate(case.model, case.inputs, **{CACHE: cache})
        close(steered, expected)


def test_a_prompt_prefilled_in_chunks_by_hand_is_steered_at_its_last_token_only():
    case = Case("llava")
    expected = case.reference(1.8)[1]
    ids = case.inputs["input_ids"]
    with steer(case.model, CONFIG) as handle, torch.no_grad():
        cache = DynamicCache(config=case.decoder.config)
        # The image sits in the first chunk; the second one ends the prompt.
        cut = ids.shape[1] - 2
        features = {"pixel_values": case.inputs["pixel_values"]}
        mask = case.inputs["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with handle.paused():
            case.model(
                input_ids=ids[:, :cut],
                attention_mask=mask[:, :cut],
                position_ids=positions[:, :cut],
                **{CACHE: cache},
                **features,
            )
        _, steered = generate(
            case.model,
            {"input_ids": ids, "attention_mask": mask},
            **{CACHE: cache},
        )
    close(steered, expected)


def test_text_after_image_refuses_a_prompt_in_chunks():
    case = Case("llava")
    with (
        steer(case.model, ScalingVis(alpha=1.8, rows="text_after_image")),
        pytest.raises(UnsupportedError, match="chunked prefill"),
    ):
        generate(case.model, case.inputs, prefill_chunk_size=52)


def test_a_second_turn_over_the_same_cache_steers_its_own_last_token():
    case = Case("llava", ["where is the cat"], [[image(0)]])
    cache = DynamicCache(config=case.decoder.config)
    second = case.ids.new_tensor([[7, 9, 11]])
    with steer(case.model, CONFIG) as handle, torch.no_grad():
        case.model(**case.inputs, **{CACHE: cache})
        turn = case.model(input_ids=second, **{CACHE: cache}).logits
        assert handle.last[0].applied
    ids = torch.cat([case.ids, second], dim=1)
    columns = ids == case.model.config.image_token_id
    rows = torch.zeros_like(columns)
    rows[:, case.ids.shape[1] - 1] = True
    rows[:, -1] = True
    inputs = {**case.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    spec = Spec(rows, columns, torch.tensor([1.8]))
    _, expected = reference_generate(case.model, case.decoder, inputs, spec, 1)
    close(turn[:, -1], expected[0])


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_beam_search_equals_eager_steering(family):
    case = Case(family)
    expected, _ = case.reference(1.8, generate={"num_beams": 3})
    with steer(case.model, CONFIG) as handle:
        sequences, _ = generate(case.model, case.inputs, num_beams=3)
    assert torch.equal(sequences, expected)
    assert len(handle.last) == len(case.prompts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", ["last_prompt_token", "generated", "text_after_image"])
@pytest.mark.parametrize("how", ["prompt lookup", "assistant"])
def test_candidates_that_are_checked_in_one_call_are_no_new_prompt(how, rows):
    case = Case("llava").alone(1)
    options = {"prompt_lookup_num_tokens": 3}
    if how == "assistant":
        options = {"assistant_model": copy.deepcopy(case.model)}
    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)):
        expected, _ = generate(case.model, case.inputs, steps=10)
        assert torch.equal(generate(case.model, case.inputs, steps=10, **options)[0], expected)


def test_sampling_draws_from_the_steered_distribution_for_every_returned_sequence():
    case = Case("llava")
    expected = case.reference(1.8, steps=1)[1][0].repeat_interleave(3, dim=0)
    with steer(case.model, CONFIG) as handle:
        torch.manual_seed(0)
        sequences, logits = generate(
            case.model, case.inputs, do_sample=True, num_return_sequences=3, temperature=0.7
        )
    assert len(sequences) == 6
    assert len(handle.last) == 2
    close(logits[0], expected)


def test_confidence_ignores_temperature_and_logits_processors():
    case = Case("llava")
    plain = case.reference(None, steps=1)[1][0].softmax(-1).amax(-1)
    with steer(case.model, AdaptVis()) as handle:
        generate(case.model, case.inputs, do_sample=True, temperature=3.0, repetition_penalty=2.0)
    assert [d.confidence for d in handle.last] == pytest.approx(plain.tolist(), abs=1e-5)


def test_hidden_states_and_attentions_are_those_of_the_steered_pass():
    case = Case("llava")
    case.decoder.config._attn_implementation = "eager"
    try:
        with steer(case.model, CONFIG), torch.no_grad():
            out = case.model(**case.inputs, output_hidden_states=True, output_attentions=True)
        plain = case.model(**case.inputs, output_hidden_states=True, output_attentions=True)
    finally:
        case.decoder.config._attn_implementation = "sdpa"
    close(case.model.lm_head(out.hidden_states[-1][:, -1]), out.logits[:, -1])
    for layer, (steered, before) in enumerate(zip(out.attentions, plain.attentions, strict=True)):
        assert steered.shape == before.shape
        close(steered[:, :, :-1], before[:, :, :-1])
        close(steered[:, :, -1].sum(-1), torch.ones_like(steered[:, :, -1, 0]))
        if layer == 0:
            logits = before[:, :, -1].log()
            columns = case.columns[:, None].expand_as(logits)
            by_hand = torch.where(columns, 1.8 * logits, logits)
            # Softmax forgets a constant per row, and 1.8 times it does not: compare ratios.
            image = by_hand.masked_fill(~columns, float("-inf")).softmax(-1)
            mine = steered[:, :, -1].masked_fill(~columns, 0)
            close(mine / mine.sum(-1, keepdim=True), image)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["patch first", "compile first"])
def test_a_compiled_model_is_steered(order):
    case = Case("llava", ["where is the cat"], [[image(0)]])
    expected = case.reference(1.8, steps=2)[1]
    # Compiling leaves its mark on the model, which other tests use too.
    case.model = copy.deepcopy(case.model)
    torch._dynamo.reset()
    try:
        if order == "patch first":
            patch(case.model, CONFIG)
            compiled = torch.compile(case.model, backend="eager")
        else:
            compiled = torch.compile(case.model, backend="eager")
            patch(compiled, CONFIG)
        _, steered = generate(compiled, case.inputs, steps=2)
    finally:
        unpatch(case.model)
        torch._dynamo.reset()
    close(steered, expected)


class _Int8Linear(nn.Module):
    """A linear layer as quantisers leave it: no float weight, its own arithmetic."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("quantised", (linear.weight / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, hidden):
        weight = self.quantised.to(hidden.dtype) * self.scale
        return nn.functional.linear(hidden, weight, self.bias)


def test_quantised_linear_layers_are_left_alone():
    case = Case("llava")
    model = copy.deepcopy(case.model)
    for name, module in list(model.model.language_model.named_modules()):
        if isinstance(module, nn.Linear):
            model.model.language_model.set_submodule(name, _Int8Linear(module))
    decoder = family_for(model.config).decoder_of(model)
    spec = Spec(case.last_row, case.columns, torch.tensor([1.8, 1.8]))
    _, expected = reference_generate(model, decoder, case.inputs, spec, 4)
    with steer(model, CONFIG):
        close(generate(model, case.inputs)[1], expected)
    assert any(isinstance(module, _Int8Linear) for module in model.modules())


def test_a_model_dispatched_over_devices_is_steered():
    from accelerate import cpu_offload

    case = Case("llava")
    expected = case.reference(1.8)[1]
    model = cpu_offload(copy.deepcopy(case.model), execution_device=torch.device("cpu"))
    with steer(model, CONFIG):
        close(generate(model, case.inputs)[1], expected)


def test_two_patched_models_do_not_mix():
    first, second = Case("llava"), Case("qwen2_vl")
    expected = first.reference(1.8)[1], second.reference(0.5)[1]
    with steer(first.model, ScalingVis(alpha=1.8)), steer(second.model, ScalingVis(alpha=0.5)):
        close(generate(first.model, first.inputs)[1], expected[0])
        close(generate(second.model, second.inputs)[1], expected[1])


def test_patching_again_replaces_the_method_and_removing_brings_the_older_back():
    case = Case("llava")
    strong, weak = case.reference(1.8)[1], case.reference(0.5)[1]
    outer = patch(case.model, ScalingVis(alpha=1.8))
    inner = patch(case.model, ScalingVis(alpha=0.5))
    close(generate(case.model, case.inputs)[1], weak)
    inner.remove()
    close(generate(case.model, case.inputs)[1], strong)
    outer.remove()
    assert "forward" not in case.model.__dict__


def test_handles_removed_out_of_order_leave_the_other_in_force():
    case = Case("llava")
    weak = case.reference(0.5)[1]
    outer = patch(case.model, ScalingVis(alpha=1.8))
    inner = patch(case.model, ScalingVis(alpha=0.5))
    outer.remove()
    close(generate(case.model, case.inputs)[1], weak)
    inner.remove()
    assert "generate" not in case.model.__dict__


def test_threads_on_one_model_get_their_own_answers():
    case = Case("llava", ["where is the cat", "right or left", "what"], None)
    alone = [case.alone(index) for index in range(3)]
    expected = [one.reference(1.8)[1] for one in alone]
    results: dict[int, list] = {0: [], 1: [], 2: []}

    def work(index: int) -> None:
        for _ in range(4):
            results[index].append(generate(case.model, alone[index].inputs)[1])

    handle = patch(case.model, CONFIG)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    for index in range(3):
        assert len(results[index]) == 4
        for logits in results[index]:
            close(logits, expected[index])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_float32(dtype):
    case = Case("llava")
    model = copy.deepcopy(case.model).to(dtype)
    inputs = {**case.inputs, "pixel_values": case.inputs["pixel_values"].to(dtype)}
    expected = case.reference(1.3, steps=1)[1][0].softmax(-1)
    with steer(model, ScalingVis(alpha=1.3)):
        _, steered = generate(model, inputs, steps=1)
    assert (steered[0].float().softmax(-1) - expected).abs().max() < 0.1


def in_thread(work):
    """Run ``work`` in a thread of its own and return what it returns."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


def test_a_with_block_steers_its_own_thread_and_another_threads_block_does_not_touch_it():
    case = Case("llava")
    steered, halved, plain = (case.reference(alpha)[1] for alpha in (1.8, 0.5, None))

    def other():
        with steer(case.model, ScalingVis(alpha=0.5)):
            return generate(case.model, case.inputs)[1]

    with steer(case.model, CONFIG) as handle:
        close(in_thread(other), halved)
        close(generate(case.model, case.inputs)[1], steered)
        with pytest.warns(AdaptVisWarning, match="with-block of another thread"):
            close(in_thread(lambda: generate(case.model, case.inputs)[1]), plain)
    with patch_for(case.model, CONFIG) as handle:
        with handle.paused():
            close(in_thread(lambda: generate(case.model, case.inputs)[1]), steered)
        assert not handle.is_paused


class patch_for:
    def __init__(self, model, config):
        self.handle = patch(model, config)

    def __enter__(self):
        return self.handle

    def __exit__(self, *_):
        self.handle.remove()


def test_patching_and_removing_in_many_threads_leaves_the_model_clean():
    model = Case("llava").model
    errors = []

    def work():
        try:
            for _ in range(50):
                with steer(model, CONFIG):
                    pass
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not {"forward", "generate", "_adaptvis_stack"} & set(model.__dict__)


def test_a_patched_model_is_freed():
    import gc
    import weakref

    model = copy.deepcopy(Case("llava").model)
    patch(model, CONFIG)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_removing_is_refused_as_a_whole_when_somebody_wrapped_the_model_since():
    case = Case("llava")
    expected = case.reference(1.8)[1]
    handle = patch(case.model, CONFIG)
    ours = case.model.forward
    case.model.forward = functools.wraps(ours)(lambda *args, **kwargs: ours(*args, **kwargs))
    with pytest.raises(UnsupportedError, match="wrapped again"):
        handle.remove()
    close(generate(case.model, case.inputs)[1], expected)
    case.model.forward = ours
    handle.remove()
    assert "forward" not in case.model.__dict__


@pytest.mark.parametrize("options", [{}, {"use_cache": False}])
@pytest.mark.parametrize("rows", ["last_prompt_token", "generated"])
def test_untouched_prompts_of_a_mixed_batch_stay_bit_identical_in_every_mode(rows, options):
    case = Case("llava", ["where is the cat", "no picture here"], [[image(0)], []])
    _, untouched = generate(case.model, case.inputs, **options)
    with steer(case.model, ScalingVis(alpha=1, rows=rows)), pytest.warns(AdaptVisWarning):
        assert torch.equal(generate(case.model, case.inputs, **options)[1], untouched)
    with steer(case.model, ScalingVis(alpha=2, rows=rows)), pytest.warns(AdaptVisWarning):
        _, steered = generate(case.model, case.inputs, **options)
    assert torch.equal(steered[:, 1], untouched[:, 1])
    expected = case.reference(2.0, generated_rows=rows == "generated")[1]
    close(steered[:, 0], expected[:, 0])


def test_a_cache_that_adaptvis_has_not_seen_is_refused_not_ignored():
    case = Case("llava", ["where is the cat"], [[image(0)]])
    cache = DynamicCache(config=case.decoder.config)
    with torch.no_grad():
        case.model(**case.inputs, **{CACHE: cache})
        with steer(case.model, CONFIG), pytest.raises(PromptError, match="has not seen"):
            case.model(input_ids=case.ids[:, -3:], **{CACHE: cache})


def test_attention_weights_come_out_with_some_layers_steered():
    case = Case("llava")
    case.decoder.config._attn_implementation = "eager"
    try:
        with steer(case.model, ScalingVis(alpha=1.8, layers=[1])), torch.no_grad():
            out = case.model(**case.inputs, output_attentions=True)
    finally:
        case.decoder.config._attn_implementation = "sdpa"
    assert len(out.attentions) == case.decoder.config.num_hidden_layers
    close(out.attentions[0].sum(-1)[:, :, -1], torch.ones_like(out.attentions[0][:, :, -1, 0]))
