"""Every mode, depth and orientation of a picture becomes the RGB pixels that it shows."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from pictures_on_disk import (
    ORIENTATIONS,
    encoded,
    orientation_tag,
    png,
    scene,
    stored_as,
    tiff,
    transparent_colour,
)
from PIL import Image

from adaptvis.engine import Query
from adaptvis.errors import DataError, PromptError
from adaptvis.pictures import as_rgb
from adaptvis.tasks.images import decode_image

Pixels = np.ndarray[Any, Any]


def pixels(content: bytes, **options: bool) -> Pixels:
    image = decode_image(content, "x", **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def greys(content: bytes) -> list[int]:
    """The first row, whose three channels agree."""
    row = pixels(content)[0]
    assert (row == row[:, :1]).all()
    return row[:, 0].tolist()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {"quality": 100})],
)
def test_every_orientation_is_set_upright(
    kind: str, options: dict[str, Any], orientation: int
) -> None:
    shown = scene(48, 64) // 8 * 8
    if kind == "JPEG":
        shown = np.kron(scene(3, 4), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_as(shown, orientation))
    content = encoded(stored, kind, exif=exif, **options)
    tolerance = 40 if kind == "JPEG" else 0
    found = pixels(content).astype(int)
    assert found.shape == shown.shape
    assert np.abs(found - shown)[8::16, 8::16].max() <= tolerance
    # And nobody turns it a second time: vLLM looks at the tag, too.
    assert decode_image(content, "x").getexif().get(0x0112, 1) == 1


def test_pixels_as_they_are_stored_lose_the_tag_that_would_turn_them() -> None:
    stored = stored_as(scene(), 6)
    content = encoded(Image.fromarray(stored), "PNG", exif=orientation_tag(6))
    found = decode_image(content, "x", upright=False)
    assert (np.asarray(found) == stored).all()
    assert 0x0112 not in found.getexif()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_exif_block_fails_no_picture() -> None:
    shown = scene()
    turned = Image.fromarray(stored_as(shown, 6))
    # Only another tag is broken: the orientation still holds.
    assert (pixels(encoded(turned, "PNG", exif=orientation_tag(6, broken=True))) == shown).all()
    upright = Image.fromarray(shown)
    blocks = (b"Exif\0\0" + b"\xff" * 30, b"Exif\0\0II*\0\xff\xff\xff\xff", orientation_tag(9))
    for block in (*blocks, orientation_tag(0), orientation_tag(6)[:16]):
        assert (pixels(encoded(upright, "PNG", exif=block)) == shown).all()
        assert pixels(encoded(upright, "JPEG", exif=block)).shape == shown.shape


# 0, 1, 255, 256, 32768, 65535 of 65535: the upper eight bits.
DEEP = [0, 1, 255, 256, 32768, 65535]
EIGHT = [0, 0, 0, 1, 128, 255]


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    values = np.array([DEEP], np.uint16)
    assert greys(encoded(Image.fromarray(values), "PNG")) == EIGHT
    assert greys(tiff(6, 1, 16, 1, values.tobytes())) == EIGHT
    assert greys(tiff(6, 1, 16, 0, values.tobytes())) == [255 - grey for grey in EIGHT]
    assert greys(tiff(6, 1, 32, 1, values.astype("<u4").tobytes())) == EIGHT
    assert greys(b"P5 6 1 65535 " + values.astype(">u2").tobytes()) == EIGHT
    big_endian = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    assert np.asarray(as_rgb(big_endian))[0, :, 0].tolist() == EIGHT
    assert np.asarray(as_rgb(Image.fromarray(values.astype(np.int32))))[0, :, 0].tolist() == EIGHT
    # Twelve bits fill twelve bits: 0xfff is white. Two samples in three bytes.
    assert greys(tiff(2, 1, 12, 1, bytes([0xFF, 0xF8, 0x00]))) == [255, 128]


def test_sixteen_bits_of_grey_are_as_bright_as_sixteen_bits_of_colour() -> None:
    values = np.arange(0, 65536, 257, dtype=">u2")
    grey = png(256, 1, 16, 0, b"\0" + values.tobytes())
    colour = png(256, 1, 16, 2, b"\0" + np.repeat(values, 3).tobytes())
    assert (pixels(grey) == pixels(colour)).all()


def test_wide_integers_of_eight_bits_are_eight_bits() -> None:
    image = Image.fromarray(np.array([[0, 100, 255]], np.int32))
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [0, 100, 255]
    # A dark picture of a format that stores sixteen bits is dark.
    assert greys(b"P5 3 1 65535 " + struct.pack(">3H", 0, 100, 255)) == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.4, 255.0], [0, 100, 255])],
)
def test_decimal_fractions(values: list[float], expected: list[int]) -> None:
    assert greys(tiff(3, 1, 32, 1, np.array(values, "<f4").tobytes(), 3)) == expected


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1.0, 1.0]], np.float32),
        np.array([[0.0, 4095.0]], np.float32),
        np.array([[0.0, np.nan]], np.float32),
        np.array([[0.0, np.inf]], np.float32),
        np.array([[-5, 5]], np.int32),
        np.array([[0, 70_000]], np.int32),
    ],
)
def test_values_that_say_nothing_about_black_and_white_are_refused(values: Pixels) -> None:
    sentence = r"values from .* to .* save it with 8 or 16 bits"
    with pytest.raises(DataError, match=sentence):
        as_rgb(Image.fromarray(values))
    with pytest.raises(DataError, match=r"^q, line 2: image a\.tif cannot be read .*" + sentence):
        decode_image(encoded(Image.fromarray(values), "TIFF"), "q, line 2: image a.tif")


def on_white(colour: int, alpha: int) -> int:
    return round((colour * alpha + 255 * (255 - alpha)) / 255)


def test_what_is_transparent_lies_on_white() -> None:
    grey, alpha = np.array([[0, 100, 200, 30]], np.uint8), np.array([[0, 255, 128, 64]], np.uint8)
    expected = [on_white(int(g), int(a)) for g, a in zip(grey[0], alpha[0], strict=True)]
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    rgba = Image.merge("RGBA", [*[Image.fromarray(grey)] * 3, Image.fromarray(alpha)])
    images = [la, rgba, la.convert("La"), rgba.convert("RGBa")]
    for image, tolerance in zip(images, (1, 1, 2, 2), strict=True):
        found = np.asarray(as_rgb(image))[0, :, 0].astype(int)
        assert np.abs(found - expected).max() <= tolerance, image.mode
    for content in (encoded(la, "PNG"), encoded(rgba, "PNG"), encoded(rgba, "TIFF")):
        assert np.abs(np.array(greys(content)) - expected).max() <= 1


def test_transparent_palettes_and_colours_lie_on_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    one = encoded(palette, "PNG", transparency=1)
    assert pixels(one).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    several = encoded(palette, "PNG", transparency=bytes([255, 0, 128]))
    half = [on_white(channel, 128) for channel in (70, 80, 90)]
    assert np.abs(pixels(several)[0, 2].astype(int) - half).max() <= 1
    assert pixels(encoded(palette, "GIF", transparency=0))[0, 0].tolist() == [255, 255, 255]
    red = b"\0" + struct.pack(">6H", 65535, 0, 0, 0x1234, 0x5678, 0x9ABC)
    colour = png(2, 1, 16, 2, red, transparent_colour(65535, 0, 0))
    assert pixels(colour).tolist() == [[[255, 255, 255], [0x12, 0x56, 0x9A]]]
    grey = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 0xABCD), transparent_colour(1000))
    assert greys(grey) == [255, 0xAB]


def test_print_and_perceptual_colours() -> None:
    inks = (40, 80, 120, 60)
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    cmyk = Image.new("CMYK", (16, 16), inks)
    for kind, tolerance in (("TIFF", 1), ("JPEG", 4)):
        found = pixels(encoded(cmyk, kind)).reshape(-1, 3).mean(axis=0)
        assert np.abs(found - expected).max() <= tolerance, kind
    # L* = 50 is sRGB 119.
    lab = Image.new("LAB", (2, 2), (128, 128, 128))
    assert np.abs(np.asarray(as_rgb(lab)).astype(int) - 119).max() <= 2
    assert np.abs(pixels(encoded(lab, "TIFF")).astype(int) - 119).max() <= 2


def test_few_bits_per_pixel() -> None:
    assert greys(png(2, 1, 1, 0, b"\0\x40")) == [0, 255]
    assert greys(png(4, 1, 2, 0, b"\0\x1b")) == [0, 85, 170, 255]
    assert np.asarray(as_rgb(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert (pixels(content) == (255, 0, 0)).all()


def test_small_and_progressive_pictures_and_profiles() -> None:
    for size in ((1, 1), (1, 40), (40, 1), (3, 40)):
        assert decode_image(encoded(Image.new("RGB", size), "PNG"), "x").size == size
    smooth = Image.fromarray(np.kron(scene(3, 4), np.ones((16, 16, 1), np.uint8)))
    progressive = pixels(encoded(smooth, "JPEG", progressive=True, quality=95)).astype(int)
    assert np.abs(progressive - np.asarray(smooth))[8::16, 8::16].max() <= 40
    profiled = pixels(encoded(smooth, "PNG", icc_profile=b"no profile at all"))
    assert (profiled == np.asarray(smooth)).all()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_a_format_that_cannot_be_read_is_said_in_one_sentence(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^a\.heic cannot be read .*save it as PNG or JPEG"):
        decode_image(content, "a.heic")


def test_a_query_holds_what_its_pictures_show() -> None:
    shown = scene()
    plain = Image.fromarray(shown)
    turned = Image.open(
        io.BytesIO(encoded(Image.fromarray(stored_as(shown, 8)), "PNG", exif=orientation_tag(8)))
    )
    deep = Image.fromarray(np.array([DEEP], np.uint16))
    query = Query("where", (plain, turned, deep, Image.new("LA", (2, 2))))
    assert query.images[0] is plain
    assert (np.asarray(query.images[1]) == shown).all()
    assert np.asarray(query.images[2])[0, :, 0].tolist() == EIGHT
    assert query.images[3].getpixel((0, 0)) == (255, 255, 255)
    for wrong in (shown, "a.png"):
        with pytest.raises(PromptError, match=r"must be PIL images, got (ndarray|str)"):
            Query("where", (wrong,))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no pixels"):
        Query("where", (Image.new("RGB", (0, 5)),))
