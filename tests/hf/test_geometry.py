"""Token boxes against what the real image processors and the models' own packing code do.

A bright rectangle on black goes through the processor; its difference to an all-black image is
reduced to one number per vision patch, and the model's own code (pixel shuffle, pooling, unpadding
and packing) puts those numbers in token order. The tokens that light up must be the ones whose
boxes lie under the rectangle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hf.tiny_families import FAMILIES, TEXT_ONLY_FAMILIES, build, encode
from PIL import Image
from torch import Tensor

from adaptvis.config import Region
from adaptvis.errors import PromptError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.geometry import image_token_boxes
from adaptvis.models.projector import pool_grid
from adaptvis.steering.token_boxes import tokens_in_region

# (width, height): exact, tiny, wide, tall, odd, large, very wide, very tall.
SIZES = [
    (56, 56),
    (64, 64),
    (9, 7),
    (90, 40),
    (33, 101),
    (131, 97),
    (640, 427),
    (300, 60),
    (50, 210),
]
NEAREST = 0

Box = tuple[int, int, int, int]


def image_with(size: tuple[int, int], box: Box | None = None) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


def rectangles(size: tuple[int, int]) -> list[Box]:
    """A few rectangles: corners, centre, off centre, a thin column and a thin row."""
    width, height = size
    fractions = [
        (0.0, 0.0, 0.25, 0.25),
        (0.75, 0.75, 1.0, 1.0),
        (0.4, 0.4, 0.6, 0.6),
        (0.55, 0.1, 0.9, 0.35),
        (0.3, 0.0, 0.36, 1.0),
        (0.0, 0.62, 1.0, 0.7),
    ]
    boxes = []
    for left, top, right, bottom in fractions:
        x, y = int(left * width), int(top * height)
        boxes.append((x, y, max(x + 1, int(right * width)), max(y + 1, int(bottom * height))))
    return boxes


def patch_light(pictures: Tensor, patch: int) -> Tensor:
    """[pictures, 3, height, width] -> brightest value per patch [pictures, rows, columns]."""
    return torch.nn.functional.max_pool2d(pictures.abs().amax(1), patch, patch)


def _grid(model: Any, inputs: Any) -> Tensor:
    return patch_light(inputs["pixel_values"], model.config.vision_config.patch_size).flatten()


def _averaged(model: Any, inputs: Any) -> Tensor:
    light = patch_light(inputs["pixel_values"], model.config.vision_config.patch_size)
    return pool_grid(light.flatten(1)[..., None], model.config.compression).flatten()


def _packed(model: Any, inputs: Any) -> Tensor:
    light = patch_light(inputs["pixel_values"][0], model.config.vision_config.patch_size)
    options: dict[str, Any] = {"vision_feature_select_strategy": "default"}
    if model.config.model_type == "llava_onevision":
        options = {"vision_aspect_ratio": model.config.vision_aspect_ratio}
    packed, _ = model.model.pack_image_features(
        [light.flatten(1)[..., None]],
        inputs["image_sizes"],
        image_newline=torch.zeros(1),
        **options,
    )
    return packed[0][:, 0]


def _merged(model: Any, inputs: Any) -> Tensor:
    # The merger reads groups of patches as they come from the image processor.
    group = model.config.vision_config.spatial_merge_size**2
    return inputs["pixel_values"].abs().amax(-1).view(-1, group).amax(-1)


def _pooled(model: Any, inputs: Any) -> Tensor:
    light = patch_light(inputs["pixel_values"], model.config.vision_config.patch_size)
    return model.model.multi_modal_projector.avg_pool(light).flatten()


def _shuffled(model: Any, inputs: Any) -> Tensor:
    light = patch_light(inputs["pixel_values"], model.config.vision_config.patch_size[0])
    return model.model.pixel_shuffle(light[..., None], 0.5).amax(-1).flatten()


def _connected(model: Any, inputs: Any) -> Tensor:
    light = patch_light(inputs["pixel_values"][0], model.config.vision_config.patch_size)
    scale = model.config.scale_factor
    return (
        model.model.connector.pixel_shuffle(light.flatten(1)[..., None], scale).amax(-1).flatten()
    )


TOKEN_LIGHT: dict[str, Callable[[Any, Any], Tensor]] = {
    "llava": _grid,
    "adaptvis_llava": _averaged,
    "llava_next": _packed,
    "llava_onevision": _packed,
    "qwen2_vl": _merged,
    "qwen2_5_vl": _merged,
    "qwen3_vl": _merged,
    "gemma3": _pooled,
    "internvl": _shuffled,
    "smolvlm": _connected,
    "idefics3": _connected,
    "paligemma": _grid,
}


def light_under(
    family: str, model: Any, processor: Any, image_size: tuple[int, int], box: Box, **kwargs: Any
) -> Tensor:
    """How much each image token's pixels change when ``box`` turns white: [num_image_tokens]."""
    options = {"do_normalize": False, "do_rescale": True, **kwargs}
    inputs = [
        encode(family, processor, ["where ?"], [[image_with(image_size, patch)]], **options)
        for patch in (box, None)
    ]
    change = {
        "pixel_values": inputs[0]["pixel_values"] - inputs[1]["pixel_values"],
        "image_sizes": inputs[0].get("image_sizes"),
    }
    return TOKEN_LIGHT[family](model, change)


def overlap(boxes: Tensor, box: tuple[float, ...]) -> Tensor:
    across = boxes[:, 2].clamp(max=box[2]) - boxes[:, 0].clamp(min=box[0])
    down = boxes[:, 3].clamp(max=box[3]) - boxes[:, 1].clamp(min=box[1])
    return (across.clamp(min=0) * down.clamp(min=0)).nan_to_num(0.0)


def check_light(light: Tensor, boxes: Tensor, box: Box, margin: tuple[float, float]) -> None:
    """Tokens well under the rectangle are lit, tokens off it are dark."""
    assert len(light) == len(boxes)
    x, y = margin
    inner = (box[0] + x, box[1] + y, box[2] - x, box[3] - y)
    outer = (box[0] - x, box[1] - y, box[2] + x, box[3] + y)
    lit = light > 1e-3
    assert not (lit & (overlap(boxes, outer) == 0)).any()
    if inner[0] < inner[2] and inner[1] < inner[3]:
        assert lit[overlap(boxes, inner) > 0].all()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("family", FAMILIES)
def test_lit_tokens_lie_under_the_rectangle(family: str, size: tuple[int, int]) -> None:
    model, processor = build(family)
    boxes = image_token_boxes(processor, model.config, size)
    # A pixel on the canvas covers at most this many original pixels with nearest resampling.
    margin = (max(1.0, size[0] / 50), max(1.0, size[1] / 50))
    if family == "llava_onevision":
        uncapped = copy.deepcopy(model.config)
        uncapped.vision_aspect_ratio = "anyres_max_99"
        if len(image_token_boxes(processor, uncapped, size)) != len(boxes):
            # The tiles' map is scaled down bilinearly: neighbours share light.
            widest = (boxes[:, 2:] - boxes[:, :2])[16:].nan_to_num(0.0).amax(0).tolist()
            margin = (widest[0], widest[1])
    for box in rectangles(size):
        light = light_under(family, model, processor, size, box, resample=NEAREST)
        check_light(light, boxes, box, margin)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("family", FAMILIES)
def test_brightest_tokens_are_under_the_rectangle_with_default_resampling(
    family: str, size: tuple[int, int]
) -> None:
    model, processor = build(family)
    boxes = image_token_boxes(processor, model.config, size)
    for box in rectangles(size):
        if not (overlap(boxes, box) > 0).any():
            continue  # cropped away
        light = light_under(family, model, processor, size, box)
        if light.amax() < 0.5:
            continue  # a sliver of a cell beside the crop
        assert (overlap(boxes, box)[light > 0.9 * light.amax()] > 0).all()


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 40), (40, 1), (2000, 31)])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_box_per_placeholder(family: str, size: tuple[int, int]) -> None:
    model, processor = build(family)
    inputs = encode(family, processor, ["where ?"], [[image_with(size)]])
    placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    boxes = image_token_boxes(processor, model.config, size)
    assert boxes.shape == (placeholders, 4)
    assert boxes.dtype == torch.float64


@pytest.mark.parametrize("family", FAMILIES)
def test_several_images_in_a_batch(family: str) -> None:
    model, processor = build(family)
    sizes = [[(90, 40)], [(33, 101), (131, 97)], []]
    sizes = sizes if family in TEXT_ONLY_FAMILIES else sizes[:2]
    images = [[image_with(size) for size in own] for own in sizes]
    inputs = encode(family, processor, ["where ?"] * len(sizes), images)
    placeholders = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    found = [
        sum(
            len(image_token_boxes(processor, model.config, size, images_in_prompt=len(own)))
            for size in own
        )
        for own in sizes
    ]
    assert found == placeholders


@pytest.mark.parametrize("family", FAMILIES)
def test_features_fit_the_boxes(family: str) -> None:
    """The model itself accepts as many features as there are boxes."""
    model, processor = build(family)
    inputs = encode(family, processor, ["where ?"], [[image_with((131, 97), (3, 3, 60, 60))]])
    assert model(**inputs).logits.isfinite().all()


def test_onevision_pads_each_of_several_images_to_a_square() -> None:
    model, processor = build("llava_onevision")
    size = (90, 40)
    boxes = image_token_boxes(processor, model.config, size, images_in_prompt=2)
    assert boxes[-1].isnan().all()
    for box in rectangles(size):
        options = {"do_normalize": False, "resample": NEAREST}
        lit, dark = (
            encode(
                "llava_onevision",
                processor,
                ["where ?"],
                [[image_with(size, patch), image_with((50, 50))]],
                **options,
            )["pixel_values"][0]
            for patch in (box, None)
        )
        light = torch.cat([patch_light(lit - dark, 14).flatten(), torch.zeros(1)])
        check_light(light, boxes, box, (1.7, 1.7))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llava", {"do_center_crop": False}),
        ("llava", {"do_center_crop": False, "size": {"height": 56, "width": 80}}),
        ("llava", {"do_pad": True}),
        ("llava", {"do_resize": False}),
        ("llava", {"do_resize": False, "crop_size": {"height": 41, "width": 58}}),
        ("llava", {"size": {"shortest_edge": 40}}),
        ("llava", {"size": {"shortest_edge": 80}}),
        ("internvl", {"crop_to_patches": False}),
        ("internvl", {"max_patches": 2}),
        ("internvl", {"max_patches": 1}),
        ("internvl", {"min_patches": 3}),
        ("smolvlm", {"do_image_splitting": False}),
        ("idefics3", {"do_image_splitting": False}),
        ("idefics3", {"size": {"longest_edge": 192}}),
        ("idefics3", {"size": {"longest_edge": 64}}),
        ("qwen2_vl", {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 8 * 28 * 28}}),
        ("llava_next", {"image_grid_pinpoints": [[56, 112], [112, 56]]}),
        (
            "gemma3",
            {
                "do_pan_and_scan": True,
                "pan_and_scan_min_crop_size": 8,
                "pan_and_scan_max_num_crops": 4,
                "pan_and_scan_min_ratio_to_activate": 1.2,
            },
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(90, 40), (33, 101), (131, 97), (41, 41)])
def test_settings_of_the_call_and_of_the_image_processor(
    family: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    model, processor = build(family)
    if "image_grid_pinpoints" in settings:
        # The processor counts placeholders from its attribute, whatever the call says.
        model, processor = copy.deepcopy(model), copy.deepcopy(processor)
        processor.image_processor.image_grid_pinpoints = settings["image_grid_pinpoints"]
        model.config.image_grid_pinpoints = settings["image_grid_pinpoints"]
        settings = {}
    margin = (max(1.0, size[0] / 40), max(1.0, size[1] / 40))
    boxes = image_token_boxes(processor, model.config, size, image_kwargs=settings)
    for box in rectangles(size):
        light = light_under(family, model, processor, size, box, resample=NEAREST, **settings)
        check_light(light, boxes, box, margin)

    inputs = encode(family, processor, ["where ?"], [[image_with(size)]], **settings)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == len(boxes)

    changed = copy.deepcopy(processor)
    for name, value in settings.items():
        setattr(changed.image_processor, name, value)
    inputs = encode(family, changed, ["where ?"], [[image_with(size)]])
    boxes = image_token_boxes(changed, model.config, size)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == len(boxes)


def published(family: str) -> tuple[Any, Any]:
    """Configuration and processor with the image settings of a published checkpoint."""
    model, processor = (copy.deepcopy(part) for part in build(family))
    config, images = model.config, processor.image_processor
    vision = config.vision_config
    if family == "llava":
        images.size, images.crop_size = {"shortest_edge": 336}, {"height": 336, "width": 336}
        vision.image_size, vision.patch_size, processor.patch_size = 336, 14, 14
    elif family == "llava_next":
        images.size, images.crop_size = {"shortest_edge": 336}, {"height": 336, "width": 336}
        images.image_grid_pinpoints = [
            [336, 672],
            [672, 336],
            [672, 672],
            [1008, 336],
            [336, 1008],
        ]
        vision.image_size = 336
    elif family == "llava_onevision":
        images.size = {"height": 384, "width": 384}
        images.image_grid_pinpoints = [
            [384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)
        ]
        processor.num_image_tokens = 27 * 27
        processor.vision_aspect_ratio = config.vision_aspect_ratio = "anyres_max_9"
        vision.image_size = 384
    elif family.startswith("qwen"):
        images.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    elif family == "internvl":
        images.size, images.max_patches = {"height": 448, "width": 448}, 12
        vision.image_size, vision.patch_size = [448, 448], [14, 14]
        processor.image_seq_length = 256
    if hasattr(config, "image_grid_pinpoints"):
        config.image_grid_pinpoints = images.image_grid_pinpoints
    return config, processor


@pytest.mark.parametrize(
    "family", ["llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen3_vl", "internvl"]
)
def test_counts_with_published_settings(family: str) -> None:
    config, processor = published(family)
    rng = np.random.default_rng(0)
    sizes = [(int(width), int(height)) for width, height in rng.integers(20, 3000, (40, 2))]
    expected = processor._get_num_multimodal_tokens([(height, width) for width, height in sizes])
    # InternVL's count includes the two tokens around an image, which are not placeholders.
    around = 2 if family == "internvl" else 0
    found = [len(image_token_boxes(processor, config, size)) + around for size in sizes]
    assert found == expected["num_image_tokens"]


@pytest.mark.parametrize("size", [(700, 500), (384, 384), (300, 1100)])
def test_patches_that_leave_a_remainder_in_each_tile(size: tuple[int, int]) -> None:
    """SigLIP at 384 pixels has 27 patches of 14: six pixels of each tile belong to no token."""
    config, processor = published("llava_onevision")
    model, _ = build("llava_onevision")
    model = copy.deepcopy(model)
    model.config = model.model.config = config
    boxes = image_token_boxes(processor, config, size)
    for box in rectangles(size):
        light = light_under("llava_onevision", model, processor, size, box, resample=NEAREST)
        check_light(light, boxes, box, (2.0, 3.0))


def test_class_token_has_no_place() -> None:
    model, processor = (copy.deepcopy(part) for part in build("llava"))
    processor.vision_feature_select_strategy = "full"
    boxes = image_token_boxes(processor, model.config, (60, 60))
    inputs = encode("llava", processor, ["where ?"], [[image_with((60, 60))]])
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == len(boxes) == 50
    assert boxes[0].isnan().all()
    assert not boxes[1:].isnan().any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (60, 60)])
def test_full_region_selects_every_token_with_a_place(family: str, size: tuple[int, int]) -> None:
    model, processor = build(family)
    boxes = image_token_boxes(processor, model.config, size)
    everything = Region(box=(0, 0, *size), image_size=size)
    placed = ~boxes.isnan().any(-1)
    assert torch.equal(tokens_in_region(boxes, everything), placed)


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "internvl", "idefics3"])
def test_a_tile_and_the_whole_image_both_count(family: str) -> None:
    model, processor = build(family)
    size = (112, 112)
    boxes = image_token_boxes(processor, model.config, size)
    corner = tokens_in_region(boxes, Region(box=(0, 0, 2, 2), image_size=size))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert corner.sum() == 2
    assert len(set(area[corner].round().tolist())) == 2


def test_region_that_was_cropped_away() -> None:
    model, processor = build("llava")
    size = (200, 50)
    boxes = image_token_boxes(processor, model.config, size)
    with pytest.raises(PromptError, match="sees only the part"):
        tokens_in_region(boxes, Region(box=(0, 0, 40, 50), image_size=size))


def test_unknown_family() -> None:
    _, processor = build("llava")
    with pytest.raises(UnknownFamilyError, match="did you mean 'llava_next'"):
        image_token_boxes(processor, SimpleNamespace(model_type="llava_nxt"), (10, 10))


@pytest.mark.parametrize("size", [(0, 10), (10, -1)])
def test_impossible_image_size(size: tuple[int, int]) -> None:
    model, processor = build("llava")
    with pytest.raises(PromptError, match="above 0"):
        image_token_boxes(processor, model.config, size)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("idefics3", {"do_resize": False}, "do_resize=True"),
        ("idefics3", {"size": {"longest_edge": 100}}, "multiple of max_image_size"),
        ("smolvlm", {"max_image_size": {"longest_edge": 32}}, "image_seq_len"),
        ("llava_next", {"crop_size": {"height": 28, "width": 28}}, "tiles of the vision tower"),
        ("llava_next", {"image_grid_pinpoints": [[60, 60]]}, "tiles of the vision tower"),
        ("llava_onevision", {"do_resize": False}, "do_resize=True"),
        ("internvl", {"size": {"height": 32, "width": 32}}, "image_seq_length"),
        ("gemma3", {"do_resize": False}, "image_seq_length"),
        ("paligemma", {"size": {"height": 112, "width": 112}}, "image_seq_length"),
        ("llava", {"size": {"longest_edge": 12}}, "not understood"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_followed_are_refused(
    family: str, settings: dict[str, Any], message: str
) -> None:
    model, processor = build(family)
    with pytest.raises(UnsupportedError, match=message) as error:
        image_token_boxes(processor, model.config, (90, 40), image_kwargs=settings)
    assert "\n" not in str(error.value)


def test_qwen_without_resize_needs_whole_patches() -> None:
    model, processor = build("qwen2_vl")
    off = {"do_resize": False}
    assert len(image_token_boxes(processor, model.config, (56, 84), image_kwargs=off)) == 6
    with pytest.raises(PromptError, match="multiples of 28"):
        image_token_boxes(processor, model.config, (57, 84), image_kwargs=off)
    with pytest.raises(PromptError, match="aspect ratio"):
        image_token_boxes(processor, model.config, (900, 2))


def test_processor_that_forgets_the_class_token() -> None:
    model, processor = (copy.deepcopy(part) for part in build("llava"))
    processor.num_additional_image_tokens = 0
    with pytest.raises(UnsupportedError, match="num_additional_image_tokens=1"):
        image_token_boxes(processor, model.config, (56, 56))


def test_pixtral_tower_is_refused() -> None:
    _, processor = build("llava")
    config = SimpleNamespace(
        model_type="llava", vision_config=SimpleNamespace(model_type="pixtral", patch_size=16)
    )
    with pytest.raises(UnsupportedError, match="Pixtral"):
        image_token_boxes(processor, config, (56, 56))
