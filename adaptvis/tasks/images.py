"""Opening pictures that others made: inside their root, bounded in size, errors that name them."""

import io
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from adaptvis.errors import DataError
from adaptvis.pictures import as_rgb

__all__ = ["check_image", "decode_image", "inside", "open_image", "pictures_in"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


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
        raise DataError(_outside(name, root, where))
    return path


def open_image(path: Path, where: str = "", *, upright: bool = True) -> Image.Image:
    """The picture in RGB; see :func:`adaptvis.pictures.as_rgb` for every other mode and depth.

    Args:
        upright: turn it as its EXIF orientation says; False takes the pixels as they are stored.

    Raises:
        DataError: there is no such file, it is not a picture, it is broken, or it has more pixels
            than Pillow considers safe (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    return _read(path, _named(path, where), partial(as_rgb, upright=upright))


def check_image(path: Path, where: str = "") -> None:
    """See that a picture is there and of a bounded size, without decoding its pixels.

    Raises:
        DataError: see :func:`open_image`.
    """
    _read(path, _named(path, where), lambda image: image)


def pictures_in(
    root: Path, names: tuple[str, ...], where: str, *, upright: bool = True
) -> partial[tuple[Image.Image, ...]]:
    """What opens these pictures when it is called; nothing is opened before.

    Names that leave `root` by themselves are refused at once, links out of it on opening: there
    can be hundreds of thousands of names, and following links asks the file system for each.

    Raises:
        DataError: a name lies outside `root`; on calling, see :func:`inside` and
            :func:`open_image`.
    """
    for name in names:
        if _ADDRESS.match(name):
            raise DataError(
                f"{where}: image {name!r:.60} is an address or the picture itself; save it as a "
                "file, and give the path of that"
            )
        if os.path.isabs(name):
            inside(root, name, where)
        elif os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise DataError(_outside(name, root, where))
    return partial(_open_inside, root, names, where, upright)


def _open_inside(
    root: Path, names: tuple[str, ...], where: str, upright: bool
) -> tuple[Image.Image, ...]:
    return tuple(open_image(inside(root, name, where), where, upright=upright) for name in names)


def _outside(name: str, root: Path, where: str) -> str:
    return f"{where}: image {name!r} lies outside the folder {root}"


def _named(path: Path, where: str) -> str:
    return f"{where}: image {path}" if where else f"The image {path}"


def decode_image(content: bytes, name: str, *, upright: bool = True) -> Image.Image:
    """The picture that `content` encodes, as :func:`open_image`; errors call it `name`."""
    return _read(io.BytesIO(content), name, partial(as_rgb, upright=upright))


def _read(
    source: Path | io.BytesIO, name: str, take: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    try:
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels, at most {limit}"
                )
            return take(image)
    except MemoryError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large ({error})") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} cannot be read (not an image of a format that Pillow knows here; save it as "
            "PNG or JPEG)"
        ) from None
    except Exception as error:
        # Foreign bytes: each of Pillow's decoders fails in its own way, NotImplementedError (DDS)
        # and TypeError (TIFF) among them.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{name} cannot be read ({reason})") from None
