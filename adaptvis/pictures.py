"""Any picture as the upright RGB picture that a model is asked about: one rule for every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from adaptvis.errors import DataError

__all__ = ["as_rgb"]

# What sets upright a picture that is stored in this orientation of EXIF's; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _BITS_PER_SAMPLE, _WHITE_IS_ZERO = 262, 258, 0


def as_rgb(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """The picture in RGB, set upright, without the orientation tag that would turn it again.

    The first frame of several. What is transparent lies on white, as in vLLM's server. 16-bit
    greyscale keeps its upper eight bits, as Pillow keeps them of 16-bit colour; decimal fractions
    are read as 0 to 1 or 0 to 255. Colour profiles are not applied.

    Args:
        upright: turn it as its EXIF orientation says, as transformers' and vLLM's loaders do; False
            takes the pixels as they are stored.

    Raises:
        DataError: it has no pixels, or values that say nothing about black and white.
        Exception: what Pillow raises where the pixels cannot be decoded.
    """
    image.load()
    if not (image.width and image.height):
        raise DataError(f"The picture has no pixels ({image.width} x {image.height})")
    turn = _turn(image)
    if image.mode == "RGB" and turn is None and "transparency" not in image.info:
        # A copy of what hangs on a file, which may be closed.
        return image if type(image) is Image.Image else image.copy()
    picture = _converted(image)
    if turn is not None and upright:
        picture = picture.transpose(turn)
    elif picture is image:
        picture = image.copy()
    picture.info = {}
    return picture


def _turn(image: Image.Image) -> Image.Transpose | None:
    # The other tags are left alone: a block that is broken elsewhere still tells how to turn.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))  # type: ignore[arg-type]
    except Exception:
        return None


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(picture, mask=picture.getchannel("A"))
    return paper


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Greyscale of more than eight bits: Pillow's own conversion cuts it off at 255, to white."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if not (low >= 0 and high <= 255):
            raise _unreadable(image, low, high, "0 to 1 or 0 to 255")
        return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
    if not (low >= 0 and high <= 65535):
        raise _unreadable(image, low, high, "0 to 65535")
    bits = 16
    if image.mode == "I" and high <= 255 and image.format not in ("PNG", "PPM"):
        # Eight bits in wide integers, as numpy makes them; those two formats store 16 here.
        bits = 8
    elif image.mode.startswith("I;16"):
        bits = min(16, max(8, *tags.get(_BITS_PER_SAMPLE, (16,))))
    grey = (values >> (bits - 8)).astype(np.uint8)
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    return grey if transparent is None else np.where(values == transparent, np.uint8(255), grey)


def _unreadable(image: Image.Image, low: Any, high: Any, expected: str) -> DataError:
    return DataError(
        f"The picture has values from {low:g} to {high:g} in Pillow's mode {image.mode}, where "
        f"{expected} is expected; save it with 8 or 16 bits per channel"
    )
