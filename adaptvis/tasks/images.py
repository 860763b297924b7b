"""Opening pictures that others made: inside their root, bounded in size, errors that name them."""

import io
import struct
import zlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from adaptvis.errors import DataError

__all__ = ["decode_image", "inside", "open_image", "open_images"]

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def inside(root: Path, name: str, where: str) -> Path:
    """The path of a file that a data set names, links resolved.

    Raises:
        DataError: it would lie outside `root`; the message starts with `where`.
    """
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {name!r} is not a file name ({error})") from None
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"{where}: image {name!r} lies outside the folder {root}")
    return path


def open_image(path: Path, where: str = "") -> Image.Image:
    """The picture in RGB.

    Raises:
        DataError: there is no such file, it is not a picture, it is broken, or it has more pixels
            than Pillow considers safe (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    return _decode(path, f"{where}: image {path}" if where else f"The image {path}")


def open_images(paths: tuple[Path, ...], where: str = "") -> tuple[Image.Image, ...]:
    """Several pictures, see :func:`open_image`."""
    return tuple(open_image(path, where) for path in paths)


def decode_image(content: bytes, name: str) -> Image.Image:
    """The picture that `content` encodes, in RGB; errors call it `name`."""
    return _decode(io.BytesIO(content), name)


def _decode(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise DataError(
                    f"{name} is too large ({image.width} x {image.height} pixels, at most {limit})"
                )
            return image.convert("RGB")
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large ({error})") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} cannot be read (not an image)") from None
    except _BROKEN as error:
        raise DataError(f"{name} cannot be read ({error})") from None
