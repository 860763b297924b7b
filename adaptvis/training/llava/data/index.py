"""Where each sample of a JSON or JSONL file begins: one pass, so that no sample stays in memory.

The file is scanned as bytes (decoded as Latin-1, one character each): JSON's structure is ASCII,
so positions are byte offsets and the standard library's scanner finds the end of each sample.
"""

from __future__ import annotations

import json
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from adaptvis.errors import DataError
from adaptvis.unique_keys import json_value

__all__ = ["LONGEST_SAMPLE", "SampleIndex", "index_samples"]

CHUNK = 1 << 22
LONGEST_SAMPLE = 1 << 26
"""Bytes of one sample beyond which a file is taken for broken."""

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class SampleIndex:
    """Byte ranges of a file's samples; `read` opens the file anew, so it is safe in workers."""

    path: Path
    starts: array[int]
    ends: array[int]

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, index: int) -> Any:
        """The parsed sample.

        Raises:
            DataError: the file is gone, has changed, is not UTF-8 there, or gives a key twice
                or half a character.
        """
        start, end = self.starts[index], self.ends[index]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return json_value(file.read(end - start).decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}, sample {index}: the text is not UTF-8 at byte "
                f"{start + error.start}; save the file as UTF-8"
            ) from None
        except json.JSONDecodeError:
            raise DataError(
                f"{self.path}, sample {index}: the file has changed since it was opened; "
                "start again with a file that stays as it is"
            ) from None
        except ValueError as error:
            raise DataError(f"{self.path}, sample {index}: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror})") from None


def index_samples(
    path: Path, *, limit: int | None = None, visit: Callable[[Any], None] | None = None
) -> SampleIndex:
    """Finds the samples of a JSON array, or of objects that follow one another (JSONL).

    Args:
        limit: stop after this many samples.
        visit: called with every sample. Its texts are Latin-1 readings of UTF-8 bytes: good for
            lengths and keys, not for words.

    Raises:
        DataError: the file is missing, empty or not JSON; the message names the line.
    """
    starts, ends = array("Q"), array("Q")
    try:
        with path.open("rb") as file:
            for start, end, sample in islice(_scan(_Window(path, file)), limit):
                starts.append(start)
                ends.append(end)
                if visit is not None:
                    visit(sample)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
    if not starts:
        raise DataError(f"{path} has no samples: a JSON array or JSONL of conversations is needed")
    return SampleIndex(path, starts, ends)


class _Window:
    """The part of a file that is being scanned, and where in the file it begins."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.text, self.position, self.ended = "", 0, False
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        self.offset = file.tell()

    def skip_space(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.extend():
                return ""

    def extend(self) -> bool:
        """Drops what has been scanned and reads on; as much again as is held, at least a chunk."""
        if self.ended:
            return False
        self.text = self.text[self.position :]
        self.offset, self.position = self.offset + self.position, 0
        content = self.file.read(max(CHUNK, len(self.text)))
        self.ended = not content
        self.text += content.decode("latin-1")
        return not self.ended

    def error(self, reason: str, place: int | None = None) -> DataError:
        """What is wrong, with line (1-based) and byte; by default the one to be scanned next."""
        place = self.offset + self.position if place is None else place
        line = 1
        with self.path.open("rb") as file:
            while (left := place - file.tell()) > 0:
                content = file.read(min(CHUNK, left))
                if not content:
                    break
                line += content.count(b"\n")
        return DataError(
            f"{self.path}, line {line} (byte {place}) is not JSON ({reason}): a JSON array or one "
            "object per line is expected"
        )


def _scan(window: _Window) -> Iterator[tuple[int, int, Any]]:
    """(first byte, byte after the last, sample) of every sample."""
    first = window.skip_space()
    if not first:
        raise DataError(f"{window.path} is empty: a JSON array or JSONL of conversations is needed")
    if first != "[":
        while window.skip_space():
            yield _sample(window)
        return
    window.position += 1
    if window.skip_space() != "]":
        while True:
            yield _sample(window)
            separator = window.skip_space()
            if separator == "]":
                break
            if separator != ",":
                raise window.error("a comma or the end of the array is missing")
            window.position += 1
            if window.skip_space() == "]":
                raise window.error("a comma before the end of the array")
    window.position += 1
    if window.skip_space():
        raise window.error("text after the end of the array")


def _sample(window: _Window) -> tuple[int, int, Any]:
    decoder = json.JSONDecoder()
    while True:
        try:
            sample, end = decoder.raw_decode(window.text, window.position)
        except json.JSONDecodeError as error:
            held, place = len(window.text) - window.position, window.offset + error.pos
            if held <= LONGEST_SAMPLE and window.extend():
                continue
            raise window.error(error.msg, place) from None
        except RecursionError:
            place = window.offset + window.position
            raise window.error("it is nested too deeply", place) from None
        # A number may go on after the window; objects, which samples are, cannot.
        if end == len(window.text) and not isinstance(sample, dict | list) and window.extend():
            continue
        start = window.offset + window.position
        length = end - window.position
        window.position = end
        return start, start + length, sample
