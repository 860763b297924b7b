"""Files of every kind of picture, and what they show, worked out without Pillow's conversions."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    "ORIENTATIONS",
    "encoded",
    "orientation_tag",
    "png",
    "scene",
    "stored_as",
    "tiff",
    "transparent_colour",
    "write",
]

# Where row 0 and column 0 of the stored pixels are in the upright picture (EXIF 2.3, 4.6.4).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def scene(height: int = 4, width: int = 6) -> np.ndarray[Any, Any]:
    """uint8 [height, width, 3], no two pixels and no two sides alike."""
    values = np.arange(height * width * 3) * 37 % 251
    return values.astype(np.uint8).reshape(height, width, 3)


def stored_as(upright: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """The pixels that a camera stores for this upright picture under an orientation tag."""
    height, width = upright.shape[:2]
    first_row, first_column = ORIENTATIONS[orientation]
    swapped = first_row in ("left", "right")
    stored = np.empty((width, height, 3) if swapped else (height, width, 3), np.uint8)
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            y, x = (column, row) if swapped else (row, column)
            if "bottom" in (first_row, first_column):
                y = height - 1 - y
            if "right" in (first_row, first_column):
                x = width - 1 - x
            stored[row, column] = upright[y, x]
    return stored


def orientation_tag(orientation: int, *, broken: bool = False) -> bytes:
    """An EXIF block with this tag; `broken` adds one whose value lies beyond the block's end."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)]
    if broken:
        entries.append(struct.pack("<HHII", 0x010F, 2, 100, 99_999))
    entries.sort()
    body = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + body


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of raw rows (a filter byte each), with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def transparent_colour(*values: int) -> bytes:
    """The chunk that makes one colour transparent."""
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(
    width: int, height: int, bits: int, photometric: int, data: bytes, sample_format: int = 1
) -> bytes:
    """An uncompressed greyscale TIFF, least significant byte first."""
    entries = [
        *((256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)),
        *((273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)),
    ]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    padded = data + b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries)) + body + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + directory


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
