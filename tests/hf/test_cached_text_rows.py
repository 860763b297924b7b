"""``text_after_image``: which rows are text, and text rows that are in a cache already."""

import copy

import pytest
import torch
from hf.eager_reference import Spec, reference, reference_generate
from hf.helpers import CACHE, TOLERANCE, Case, generate, image
from transformers import DynamicCache

from adaptvis import ScalingVis, patch, steer
from adaptvis.errors import UnsupportedError
from adaptvis.hf.engine import HFEngine

CONFIG = ScalingVis(alpha=1.8, rows="text_after_image")


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def case_of_one():
    return Case("llava", ["what is left of the dog in the image"], [[image(1)]])


def prefill(case, cache, columns):
    with torch.no_grad():
        case.model(
            input_ids=case.ids[:, :columns],
            pixel_values=case.inputs["pixel_values"],
            **{CACHE: cache},
            logits_to_keep=1,
        )


OTHERS = {
    "another method": ScalingVis(alpha=1.8),
    "alpha 1": ScalingVis(alpha=1.0, rows="text_after_image"),
    "another alpha": ScalingVis(alpha=0.5, rows="text_after_image"),
    "other layers": ScalingVis(alpha=1.8, rows="text_after_image", layers=[0]),
}


@pytest.mark.parametrize("by", ["paused", "unpatched", *OTHERS])
def test_text_rows_that_are_cached_unsteered_are_refused(by):
    case = case_of_one()
    cut = case.ids.shape[1] - 3
    cache = DynamicCache(config=case.decoder.config)
    whole = {"input_ids": case.ids, "attention_mask": case.inputs["attention_mask"]}
    if by == "unpatched":
        prefill(case, cache, cut)
    with steer(case.model, CONFIG) as handle:
        if by == "paused":
            with handle.paused():
                prefill(case, cache, cut)
        elif by in OTHERS:
            with steer(case.model, OTHERS[by]):
                prefill(case, cache, cut)
        with pytest.raises(UnsupportedError, match="in the cache already, unsteered"):
            generate(case.model, whole, **{CACHE: cache})
        assert handle.last == []


def test_a_cached_prefix_up_to_the_image_is_steered_as_a_whole_prompt():
    case = case_of_one()
    expected = case.reference(1.8, rows=case.text_rows())[1]
    cut = int(torch.where(case.columns[0])[0][-1]) + 1
    cache = DynamicCache(config=case.decoder.config)
    whole = {"input_ids": case.ids, "attention_mask": case.inputs["attention_mask"]}
    with steer(case.model, CONFIG) as handle:
        with handle.paused():
            prefill(case, cache, cut)
        close(generate(case.model, whole, **{CACHE: cache})[1], expected)
        assert [d.applied for d in handle.last] == [True]


@pytest.mark.parametrize("how", ["one patch", "a block for each turn", "a copied cache"])
def test_a_turn_over_text_rows_that_an_earlier_turn_steered_goes_on(how):
    case = case_of_one()
    cache = DynamicCache(config=case.decoder.config)
    second = case.ids.new_tensor([[7, 9, 11]])

    def ask(inputs, **options):
        if how == "one patch":
            return generate(case.model, inputs, **options)
        with steer(case.model, CONFIG):
            return generate(case.model, inputs, **options)

    handle = patch(case.model, CONFIG) if how == "one patch" else None
    first, _ = ask(case.inputs, **{CACHE: cache})
    if how == "a copied cache":
        cache = copy.deepcopy(cache)
    ids = torch.cat([first, second], dim=1)
    _, logits = ask({"input_ids": ids}, **{CACHE: cache})
    if handle is not None:
        handle.remove()

    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[:, : case.ids.shape[1]] = case.text_rows()
    # The last token of the first answer was never fed; it belongs to the second prompt.
    rows[:, first.shape[1] - 1 :] = True
    inputs = {**case.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    columns = ids == case.model.config.image_token_id
    spec = Spec(rows, columns, torch.tensor([1.8]))
    close(logits, reference_generate(case.model, case.decoder, inputs, spec, 4)[1])


def test_rows_added_in_between_without_steering_are_refused():
    case = case_of_one()
    cache = DynamicCache(config=case.decoder.config)
    with steer(case.model, CONFIG) as handle:
        first, _ = generate(case.model, case.inputs, **{CACHE: cache})
        new = case.ids.new_tensor([[7, 9, 11]])
        with handle.paused(), torch.no_grad():
            case.model(input_ids=torch.cat([first[:, -1:], new], 1), **{CACHE: cache})
        ids = torch.cat([first, new, new], dim=1)
        with pytest.raises(UnsupportedError, match="4 of them are in the cache"):
            generate(case.model, {"input_ids": ids}, **{CACHE: cache})


def video_and_image(case, order):
    """Token ids with the placeholders of a video in front of, or behind, an image's."""
    config = case.model.config
    ids = case.ids[0].tolist()
    video = [config.vision_start_token_id, *[config.video_token_id] * 4, config.vision_end_token_id]
    at = 0 if order == "before" else len(ids) - 2
    return torch.tensor([ids[:at] + video + ids[at:]])


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_placeholders_of_a_video_are_neither_steered_rows_nor_columns(family, order):
    case = Case(family, ["what is left of the dog"], [[image(1)]])
    config = case.model.config
    ids = video_and_image(case, order)
    # The video's features, as the encoder gives them for 8 x 8 patches of two frames.
    patch_size = case.processor.image_processor.patch_size
    torch.manual_seed(0)
    inputs = {
        **{k: v for k, v in case.inputs.items() if k.startswith(("pixel", "image_grid"))},
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(16, 3 * 2 * patch_size**2),
        "video_grid_thw": torch.tensor([[1, 4, 4]]),
    }
    is_image, is_video = ids == config.image_token_id, ids == config.video_token_id
    inputs["mm_token_type_ids"] = is_image.int() + 2 * is_video.int()
    rows = (is_image.cumsum(1) > 0) & ~is_image & ~is_video
    spec = Spec(rows, is_image, torch.tensor([1.8]))
    with reference(case.decoder, spec):
        expected = generate(case.model, inputs, use_cache=False)[1]
    with steer(case.model, CONFIG) as handle:
        close(generate(case.model, inputs)[1], expected)
    assert handle.last[0].applied
    if order == "behind":
        wrong = Spec(rows | is_video, is_image, torch.tensor([1.8]))
        with reference(case.decoder, wrong):
            different = generate(case.model, inputs, use_cache=False)[1]
        assert (different - expected).abs().max() > 10 * TOLERANCE


def test_the_engine_cuts_its_shared_prefill_at_the_first_text_row_too():
    case = Case("qwen2_vl", ["what is left of the dog"], [[image(1)]])
    engine = HFEngine(case.model, case.processor)
    ids = video_and_image(case, "behind")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    first = engine._first_row(CONFIG, inputs)
    assert first == int(torch.where(ids[0] == case.model.config.image_token_id)[0][-1]) + 1
    # A video right behind the image is no text row.
    config = case.model.config
    end = first
    ids = torch.cat([ids[:, :end], ids.new_full((1, 3), config.video_token_id), ids[:, end:]], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert engine._first_row(CONFIG, inputs) == end + 3
