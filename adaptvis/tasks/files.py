"""Question files as checked entries: what is wrong is said with file and line."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from adaptvis.errors import DataError
from adaptvis.tasks.marks import question_text
from adaptvis.unique_keys import json_value

__all__ = ["Entry", "digest", "read_csv", "read_json", "read_jsonl"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Fields of one question and where they stand, as text that starts error messages."""

    fields: Mapping[str, Any]
    where: str

    def value(self, name: str) -> Any:
        """A field that must be there.

        Raises:
            DataError: it is not; the message suggests the nearest field that is.
        """
        if name in self.fields:
            return self.fields[name]
        near = get_close_matches(name, [str(f) for f in self.fields], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{self.where}: the field {name!r} is missing{hint}")

    def text(self, name: str) -> str:
        """A non-empty text."""
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: {name} must be a non-empty text, got {value!r:.60}")
        return value

    def question(self, name: str, pictures: int = 1) -> str:
        """A non-empty text to ask; see :func:`adaptvis.tasks.marks.question_text`."""
        return question_text(self.text(name), pictures, self.where)

    def texts(self, name: str) -> tuple[str, ...]:
        """A non-empty text, or a non-empty list of them."""
        value = self.fields.get(name)
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise DataError(f"{self.where}: {name} must be a non-empty text or a list of them")
        return tuple(texts)

    def whole(self, name: str) -> int:
        """A whole number, or a text of digits."""
        value = self.value(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"{self.where}: {name} must be a whole number, got {value!r:.60}")
        return value

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """One of the known texts."""
        value = self.text(name)
        if value not in known:
            raise DataError(
                f"{self.where}: {name} must be one of {', '.join(known)}, got {value!r:.60}"
            )
        return value


def digest(*paths: Path) -> str:
    """A short digest of the contents of files.

    Raises:
        DataError: one cannot be read.
    """
    result = hashlib.sha256()
    for path in paths:
        result.update(_content(path))
    return result.hexdigest()[:16]


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        DataError: it cannot be read, or is no JSON; the message gives the line.
    """
    return _parse(_text(path), str(path))


def read_jsonl(path: Path) -> list[Entry]:
    """The objects of a file with one JSON object per line; blank lines are left out.

    Raises:
        DataError: it cannot be read, or a line is no JSON object; the message gives the line.
    """
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Entry]:
    # Not splitlines(): JSON texts may hold U+2028 and its like.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = _parse(line, where, one_line=True)
        if not isinstance(fields, dict):
            raise DataError(f"{where}: expected an object with fields, got {type(fields).__name__}")
        yield Entry(fields, where)


def read_csv(
    path: Path, columns: Sequence[str], misspelt: Mapping[str, str] | None = None
) -> list[Entry]:
    """The rows of a comma-separated file with a header that has these columns.

    Args:
        misspelt: names of columns as a published file has them, and as they are meant.

    Raises:
        DataError: it cannot be read, lacks a column, or a row has too few or too many cells.
    """
    # Not splitlines(): only CR and LF end lines, and a cell may hold U+2028 and its like.
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    entries = []
    try:
        known = misspelt or {}
        header = [known.get(name.strip(), name.strip()) for name in next(rows, [])]
        names = Entry(dict.fromkeys(header), f"{path}, line 1")
        for column in columns:
            names.value(column)
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{where}: expected {len(header)} cells, got {len(row)}")
            entries.append(Entry(dict(zip(header, row, strict=True)), where))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None
    return entries


def _parse(text: str, where: str, *, one_line: bool = False) -> Any:
    try:
        return json_value(text)
    except json.JSONDecodeError as error:
        place = where if one_line else f"{where}, line {error.lineno}"
        raise DataError(f"{place}: not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{where}: not valid JSON ({reason})") from None


def _text(path: Path) -> str:
    try:
        return _content(path).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"The file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"The file {path} cannot be read: {error.strerror}") from None
