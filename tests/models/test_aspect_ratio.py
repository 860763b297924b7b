"""Images that are not square: cropped, or padded to a square as LLaVA's own code does."""

import numpy as np
import pytest
import torch
from models.tiny_sources import (
    image_processor,
    llava_processor,
    write_language_model,
    write_vision_tower,
)
from PIL import Image

from adaptvis.hf.geometry import image_token_boxes
from adaptvis.model_inputs import load_processor
from adaptvis.models import assemble
from adaptvis.models.processors import with_aspect_ratio


def striped() -> Image.Image:
    """96 x 32 pixels: a red, a green and a blue square."""
    pixels = np.zeros((32, 96, 3), np.uint8)
    for third in range(3):
        pixels[:, 32 * third : 32 * (third + 1), third] = 255
    return Image.fromarray(pixels)


def pixel_values(processor, picture):
    return processor.image_processor([picture], return_tensors="pt")["pixel_values"][0]


def padded_by_hand(picture: Image.Image, own) -> Image.Image:
    """The square of LLaVA's own code: the mean colour, the image in its middle."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in own.image_mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(96, 32), (20, 51), (40, 40)])
def test_padding_shows_the_tower_the_whole_image_on_the_mean_colour(kind, size, tmp_path):
    cropping = llava_processor(image_processor=image_processor(kind))
    padding = with_aspect_ratio(cropping, "pad")
    picture = striped().resize(size)
    expected = pixel_values(cropping, padded_by_hand(picture, cropping.image_processor))
    torch.testing.assert_close(pixel_values(padding, picture), expected)
    padding.save_pretrained(tmp_path / "saved")
    loaded = load_processor(tmp_path / "saved")
    assert torch.equal(pixel_values(loaded, picture), pixel_values(padding, picture))


def test_the_given_processor_is_not_changed_and_there_is_a_way_back():
    cropping = llava_processor()
    padding = with_aspect_ratio(cropping, "pad")
    assert with_aspect_ratio(cropping, "crop") is cropping
    assert with_aspect_ratio(padding, "pad") is padding
    back = with_aspect_ratio(padding, "crop")
    before = pixel_values(cropping, striped())
    assert torch.equal(pixel_values(back, striped()), before)
    # What is left of the middle third is green alone; padded, every third is there.
    assert not torch.equal(pixel_values(padding, striped()), before)
    assert padding.image_processor.do_pad


@pytest.mark.filterwarnings("ignore:.*pad_token_id")
def test_boxes_of_image_tokens_reach_both_ends_of_a_padded_image(tmp_path):
    text, tower = write_language_model(tmp_path / "text"), write_vision_tower(tmp_path / "clip")
    model, processor = assemble(text, tower)
    cropped = image_token_boxes(processor, model.config, (96, 32))
    assert (float(cropped[:, 0].min()), float(cropped[:, 2].max())) == (32, 64)
    boxes = image_token_boxes(with_aspect_ratio(processor, "pad"), model.config, (96, 32))
    # 8 x 8 patches of a 96-pixel square; the image is its rows 32 to 64.
    seen = boxes[~boxes.isnan().any(dim=1)]
    assert (float(seen[:, 0].min()), float(seen[:, 2].max())) == (0, 96)
    assert len(boxes) == 64
