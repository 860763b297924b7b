"""Steering one image of several, or the tokens under a box."""

import pytest
import torch
from hf.helpers import FAMILIES, TOLERANCE, Case, generate, image
from hf.tiny_families import encode

from adaptvis import AdaptVisWarning, Region, ScalingVis, patch, steer
from adaptvis.errors import ConfigError, PromptError, UnsupportedError
from adaptvis.hf import Family
from adaptvis.hf.families import family_for
from adaptvis.hf.geometry import image_token_boxes
from adaptvis.hf.selection import ordinals_in_prompts

SIZE = (56, 40)


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def two_images(family: str) -> Case:
    return Case(family, ["where is the cat"], [[image(0, *SIZE), image(1, *SIZE)]])


@pytest.mark.parametrize(
    "family", ["llava", "llava_next", "qwen2_vl", "gemma3", "internvl", "paligemma"]
)
def test_the_second_image_is_the_second_half_of_the_image_tokens(family):
    case = two_images(family)
    positions = torch.where(case.columns[0])[0]
    columns = torch.zeros_like(case.columns)
    columns[0, positions[len(positions) // 2 :]] = True
    expected = case.reference(1.8, columns=columns)[1]
    with steer(case.model, ScalingVis(alpha=1.8, images=[1])):
        close(generate(case.model, case.inputs)[1], expected)


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_tiles_belong_to_one_image_and_need_the_processor(family):
    case = two_images(family)
    positions = torch.where(case.columns[0])[0]
    columns = torch.zeros_like(case.columns)
    columns[0, positions[: len(positions) // 2]] = True
    config = ScalingVis(alpha=1.8, images=[0])
    expected = case.reference(1.8, columns=columns)[1]
    with steer(case.model, config, processor=case.processor):
        close(generate(case.model, case.inputs)[1], expected)
    with steer(case.model, config), pytest.raises(UnsupportedError, match="processor=processor"):
        generate(case.model, case.inputs)


PAN_AND_SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16}
# 2 crops, 3 crops, and a picture that is left whole.
WIDE, WIDER, SQUARE = image(0, 224, 112), image(1, 224, 72), image(2, 48, 48)


class Scanned(Case):
    """Gemma-3 with a prompt whose wide pictures are cut by pan and scan."""

    def __init__(self, text, pictures):
        super().__init__("gemma3", [text], [[SQUARE] * len(pictures)])
        self.inputs = encode("gemma3", self.processor, [text], [pictures], **PAN_AND_SCAN)
        self.ids = self.inputs["input_ids"]
        self.columns = self.ids == self.model.config.image_token_id
        self.last_row = torch.zeros_like(self.columns)
        self.last_row[:, -1] = True


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_where_the_first_of_two_pictures_is_cut_each_number_means_its_picture(family, chosen):
    text = "<image> where is <image> the cat"
    if family == "gemma3":
        case, tokens = Scanned(text, [WIDE, SQUARE]), [3 * 16, 16]
    else:
        case = Case(family, [text], [[WIDER, SQUARE]])
        tokens = [
            len(
                image_token_boxes(
                    case.processor, case.model.config, picture.size, images_in_prompt=2
                )
            )
            for picture in (WIDER, SQUARE)
        ]
    assert case.columns.sum() == sum(tokens)
    positions = torch.where(case.columns[0])[0].split(tokens)[chosen]
    columns = torch.zeros_like(case.columns)
    columns[0, positions] = True
    expected = case.reference(1.8, columns=columns, steps=2)[1]
    config = ScalingVis(alpha=1.8, images=[chosen])
    with steer(case.model, config, processor=case.processor):
        close(generate(case.model, case.inputs, steps=2)[1], expected)


@pytest.mark.parametrize(
    ("text", "pictures", "tokens"),
    [
        ("<image> where is the cat", [WIDE], [48]),
        ("<image> <image> where is the cat", [SQUARE, WIDE], [16, 48]),
        ("<image> <image> where is the cat", [WIDE, WIDE], [48, 48]),
        ("<image> and <image> or <image>", [WIDE, SQUARE, WIDE], [48, 16, 48]),
        ("<image> here are some crops to help you see better <image>", [SQUARE] * 2, [16, 16]),
    ],
)
def test_crops_belong_to_the_picture_before_them(text, pictures, tokens):
    case = Scanned(text, pictures)
    ordinals = ordinals_in_prompts(
        case.ids, case.columns, family_for(case.model.config), case.processor, None
    )
    assert torch.bincount(ordinals[case.columns]).tolist() == tokens


@pytest.mark.parametrize(
    ("text", "pictures"),
    [
        ("<image> where is the cat", [WIDER]),
        ("<image> <image> where is the cat", [WIDE, SQUARE]),
    ],
)
def test_runs_that_may_be_crops_or_pictures_are_refused(text, pictures):
    case = Scanned(text, pictures)
    expected = case.reference(1.8)[1]
    with (
        steer(case.model, ScalingVis(alpha=1.8, images=[0]), processor=case.processor),
        pytest.raises(PromptError, match="may be its crops or pictures of their own"),
    ):
        generate(case.model, case.inputs)
    with steer(case.model, ScalingVis(alpha=1.8)):
        close(generate(case.model, case.inputs)[1], expected)


def test_pan_and_scan_without_the_processor_is_refused():
    case = Scanned("<image> where is <image> the cat", [WIDE, SQUARE])
    with (
        steer(case.model, ScalingVis(alpha=1.8, images=[1])),
        pytest.raises(UnsupportedError, match="processor=processor"),
    ):
        generate(case.model, case.inputs)


def test_a_region_of_a_picture_that_was_cut_is_steered_in_its_crops_too():
    # As large as the processor's own smallest crops ask for.
    case = Scanned("<image> where is the cat", [image(0, 600, 300)])
    # The left half: the left half of the whole view, all of the first crop, nothing of the second.
    whole = torch.tensor([[1, 1, 0, 0]] * 4).flatten()
    inside = torch.cat([whole, torch.ones(16), torch.zeros(16)]).bool()
    columns = torch.zeros_like(case.columns)
    columns[0, torch.where(case.columns[0])[0][inside]] = True
    expected = case.reference(2.2, columns=columns)[1]
    region = Region(box=(0, 0, 300, 300), image_size=(600, 300))
    config = ScalingVis(alpha=2.2, regions=[region])
    with steer(case.model, config, processor=case.processor):
        close(generate(case.model, case.inputs)[1], expected)


def test_a_declared_family_whose_pictures_stand_in_several_runs_is_not_counted_by_runs():
    family = Family("declared", features="model")
    image_tokens = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1, 1]]).bool()
    ids = image_tokens.long()
    assert ordinals_in_prompts(ids, image_tokens, family, None, [2, 2, 3]).tolist() == [
        [0, 0, -1, 1, 1, -1, 2, 2, 2]
    ]
    assert ordinals_in_prompts(ids, image_tokens, family, None, [1, 1, 2, 3]).max() == 2
    with pytest.raises(UnsupportedError, match="adjacent_images=True"):
        ordinals_in_prompts(ids, image_tokens, family, None, [4, 3])
    by_encoder = Family("declared", features="model", adjacent_images=True)
    assert ordinals_in_prompts(ids, image_tokens, by_encoder, None, [4, 3]).max() == 1


def test_chosen_images_survive_beams_and_unequal_prompts():
    case = Case("llava", ["where is the cat", "right"], [[image(0), image(1)], [image(2)]])
    columns = case.columns.clone()
    first = torch.where(columns[0])[0]
    columns[0, first[len(first) // 2 :]] = False
    expected, _ = case.reference(1.8, columns=columns, generate={"num_beams": 2})
    with steer(case.model, ScalingVis(alpha=1.8, images=[0])):
        sequences, _ = generate(case.model, case.inputs, num_beams=2)
    assert torch.equal(sequences, expected)


def test_an_image_that_a_prompt_does_not_have_is_reported_and_left_alone():
    case = two_images("llava")
    _, untouched = generate(case.model, case.inputs)
    with (
        steer(case.model, ScalingVis(alpha=1.8, images=[5])) as handle,
        pytest.warns(AdaptVisWarning, match="selected images or regions are not in the prompt"),
    ):
        assert torch.equal(generate(case.model, case.inputs)[1], untouched)
    assert not handle.last[0].applied


@pytest.mark.parametrize(
    "where",
    [
        {"images": (1, 7)},
        {"regions": [Region(box=(0, 0, *SIZE), image_size=SIZE, image=i) for i in (1, 7)]},
    ],
)
def test_of_chosen_images_the_missing_ones_are_named_and_the_others_steered(where):
    case = two_images("llava")
    columns = case.columns.clone()
    positions = torch.where(columns[0])[0]
    columns[0, positions[: len(positions) // 2]] = False
    expected = case.reference(1.8, columns=columns)[1]
    with (
        steer(case.model, ScalingVis(alpha=1.8, **where), processor=case.processor) as handle,
        pytest.warns(AdaptVisWarning, match="a prompt of 2 lacks 7 "),
    ):
        close(generate(case.model, case.inputs)[1], expected)
    assert handle.last[0].applied


@pytest.mark.parametrize("family", ["llava_next", "idefics3"])
def test_a_prompt_without_images_is_left_alone_whatever_image_is_chosen(family):
    case = Case(family, ["where is the cat"], [[]])
    plain = generate(case.model, case.inputs)[1]
    with (
        steer(case.model, ScalingVis(alpha=1.8, images=[1]), processor=case.processor) as handle,
        pytest.warns(AdaptVisWarning, match="no image"),
    ):
        assert torch.equal(generate(case.model, case.inputs)[1], plain)
    assert not handle.last[0].applied


def test_a_region_steers_the_tokens_under_its_box():
    # 56 x 40 pixels, shortest edge to 56 and cropped at the centre: 7 x 7 tokens of 8 pixels.
    case = Case("llava", ["where is the cat"], [[image(0, *SIZE)]])
    setup = case.processor.image_processor
    assert (setup.crop_size["height"], case.columns.sum().item()) == (56, 49)
    scale = 56 / SIZE[1]
    left_edge = (SIZE[0] * scale - 56) / 2
    positions = torch.where(case.columns[0])[0]
    columns = torch.zeros_like(case.columns)
    box = (0, 0, 25, 12)
    for token, position in enumerate(positions.tolist()):
        left = (token % 7 * 8 + left_edge) / scale
        top = token // 7 * 8 / scale
        columns[0, position] = left < box[2] and top < box[3]
    assert 0 < columns.sum() < 49
    config = ScalingVis(alpha=2.2, regions=[Region(box=box, image_size=SIZE)])
    expected = case.reference(2.2, columns=columns)[1]
    with steer(case.model, config, processor=case.processor):
        close(generate(case.model, case.inputs)[1], expected)


def test_a_region_of_another_size_than_the_image_is_refused():
    case = Case("qwen2_vl", ["where is the cat"], [[image(0, 112, 56)]])
    region = Region(box=(0, 0, 10, 10), image_size=(56, 280))
    with (
        steer(case.model, ScalingVis(alpha=2, regions=[region]), processor=case.processor),
        pytest.raises(PromptError, match="give the size of the image that this prompt holds"),
    ):
        generate(case.model, case.inputs)


def test_regions_without_a_processor_say_how_to_pass_one():
    case = Case("llava")
    region = Region(box=(0, 0, 10, 10), image_size=SIZE)
    with (
        steer(case.model, ScalingVis(alpha=2, regions=[region])),
        pytest.raises(UnsupportedError, match="processor=processor"),
    ):
        generate(case.model, case.inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"layers": [7]}, "layers names 7, but this model has"), ({"heads": [99]}, "heads names 99")],
)
def test_layers_and_heads_that_the_model_lacks_are_refused_when_patching(options, message):
    model = Case("llava").model
    with pytest.raises(ConfigError, match=message):
        patch(model, ScalingVis(alpha=2, **options))
    assert "forward" not in model.__dict__
