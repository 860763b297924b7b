"""A task of your own: a JSONL file of questions about images beside it.

One object per line::

    {"image": "pictures/1.png", "question": "Where is the cup?", "answer": "left",
     "options": ["left", "right"], "category": "cups", "id": "q1", "part": "test"}

`image` (or `images`, a list) and `question` are required, and `answer` or `answers`. Paths are
relative to the file and stay inside its folder. Lines without `part` belong to the test part.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from adaptvis.errors import DataError
from adaptvis.tasks.base import Part, Sample, Task

__all__ = ["custom_task"]

_FIELDS = {
    *("image", "images", "question", "answer", "answers", "options"),
    *("category", "id", "part", "object_count"),
}


def custom_task(path: Path) -> Task:
    """The task that a JSONL file holds.

    Raises:
        DataError: on loading, a line or one of its images is wrong; the message names the line.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Task(
        name=path.stem,
        description=f"questions from {path.name}",
        loader=partial(_load, path),
        source=f"{path.name} sha256:{digest}",
        max_new_tokens=32,
    )


def _load(path: Path, part: Part) -> list[Sample]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    folder = path.parent.resolve()
    checked: set[Path] = set()
    samples = []
    parts: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = _entry(line, where)
        parts.add(entry["part"])
        if part in ("all", entry["part"]):
            samples.append(_sample(entry, folder, where, checked, str(number)))
    if not samples and parts:
        raise DataError(
            f'{path} has no line with "part": "{part}"; mark some, or ask for part '
            f"{' or '.join(sorted(parts))}"
        )
    return samples


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg})") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with image, question and answer")
    if unknown := sorted(set(entry) - _FIELDS):
        raise DataError(
            f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}"
        )
    entry.setdefault("part", "test")
    if entry["part"] not in ("validation", "test"):
        raise DataError(f"{where}: part must be validation or test, got {entry['part']!r}")
    return entry


def _sample(
    entry: dict[str, Any], folder: Path, where: str, checked: set[Path], number: str
) -> Sample:
    names = _texts(entry, "images" if "images" in entry else "image", where)
    paths = tuple(_inside(folder, name, where) for name in names)
    for image_path in paths:
        if image_path not in checked:
            _decode(image_path, where)
            checked.add(image_path)
    gold = _texts(entry, "answers" if "answers" in entry else "answer", where)
    options = _texts(entry, "options", where) if "options" in entry else ()
    if options and not {g.lower() for g in gold} & {o.lower() for o in options}:
        raise DataError(f"{where}: the answer {gold[0]!r} is not among the options")
    question = _texts(entry, "question", where)
    if len(question) != 1:
        raise DataError(f"{where}: question must be one text")
    count = entry.get("object_count")
    if count is not None and not (isinstance(count, int) and count >= 0):
        raise DataError(f"{where}: object_count must be a whole number, got {count!r}")
    return Sample(
        id=str(entry.get("id", number)),
        prompt=question[0],
        images=lambda: tuple(_decode(image_path, where) for image_path in paths),
        gold=gold,
        category=str(entry.get("category", "all questions")),
        image_id="|".join(names),
        candidates=options,
        object_count=count,
    )


def _texts(entry: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    """A field that holds a non-empty text or a list of them."""
    value = entry.get(field)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{where}: {field} must be a non-empty text or a list of them")
    return tuple(texts)


def _inside(folder: Path, name: str, where: str) -> Path:
    """The image's path, refused where it would leave the file's own folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise DataError(f"{where}: image {name!r} lies outside the folder of the file")
    return path


def _decode(path: Path, where: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{where}: image {path} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{where}: image {path} cannot be read ({reason})") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: image {path} is too large ({error})") from None
