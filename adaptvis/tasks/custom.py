"""A task of your own: a JSONL file of questions about images beside it.

One object per line::

    {"image": "pictures/1.png", "question": "Where is the cup?", "answer": "left",
     "options": ["left", "right"], "category": "cups", "id": "q1", "part": "test"}

`image` (or `images`, a list) and `question` are required, and `answer` or `answers`. Paths are
relative to the file and stay inside its folder. Lines without `part` belong to the test part.
Pictures come before the question: `<image>` at its ends, once per picture, is left out.
"""

from functools import partial
from pathlib import Path

from adaptvis.errors import DataError, unknown_name
from adaptvis.tasks.base import Part, Sample, Task
from adaptvis.tasks.files import Entry, digest, read_jsonl
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.marks import question_text
from adaptvis.tasks.words import normalised_words

__all__ = ["custom_task"]

_FIELDS = {
    *("image", "images", "question", "answer", "answers", "options"),
    *("category", "id", "part", "object_count"),
}


def custom_task(path: Path) -> Task:
    """The task that a JSONL file holds.

    Raises:
        DataError: on loading, a line is wrong, and on asking, one of its images; the message
            names the line.
    """
    return Task(
        name=path.stem,
        description=f"questions from {path.name}",
        loader=partial(_load, path),
        source=f"{path.name} sha256:{digest(path)}",
        max_new_tokens=32,
    )


def _load(path: Path, part: Part) -> list[Sample]:
    folder = path.parent.resolve()
    samples = []
    parts: set[str] = set()
    # Data frames write null where a line has no value.
    entries = [
        Entry({n: value for n, value in entry.fields.items() if value is not None}, entry.where)
        for entry in read_jsonl(path)
    ]
    # Where some lines have a category, the others must not look like the total.
    categories = any("category" in entry.fields for entry in entries)
    without = "no category" if categories else "all questions"
    for entry in entries:
        # The line's number names a question that has no id of its own.
        number = entry.where.rpartition(" ")[2]
        of_part = _part(entry)
        parts.add(of_part)
        if part in ("all", of_part):
            samples.append(_sample(entry, folder, number, without))
    if not samples and parts:
        raise DataError(
            f'{path} has no line with "part": "{part}"; mark some, or ask for part '
            f"{' or '.join(sorted(parts))}"
        )
    return samples


def _part(entry: Entry) -> str:
    """The part that a line belongs to; refuses unknown fields on the way."""
    if unknown := sorted(set(entry.fields) - _FIELDS):
        raise DataError(f"{entry.where}: {unknown_name('field', unknown[0], _FIELDS)}")
    for one, several in (("image", "images"), ("answer", "answers")):
        if one in entry.fields and several in entry.fields:
            raise DataError(f"{entry.where}: give {one} or {several}, not both")
    for name in ("id", "category"):
        if not isinstance(value := entry.fields.get(name, ""), str | int | float):
            raise DataError(f"{entry.where}: {name} must be a text or a number, got {value!r:.60}")
    part = entry.fields.get("part", "test")
    if part not in ("validation", "test"):
        raise DataError(f"{entry.where}: part must be validation or test, got {part!r:.60}")
    return str(part)


def _sample(entry: Entry, folder: Path, number: str, without: str) -> Sample:
    where = entry.where
    names = entry.texts("images" if "images" in entry.fields else "image")
    gold = entry.texts("answers" if "answers" in entry.fields else "answer")
    options = entry.texts("options") if "options" in entry.fields else ()
    if options and not {normalised_words(g) for g in gold} & {normalised_words(o) for o in options}:
        raise DataError(f"{where}: the answer {gold[0]!r} is not among the options")
    right = {normalised_words(g) for g in gold}
    alike = {o.strip().casefold(): o for o in options if normalised_words(o) in right}
    if len(alike) > len(right):
        one, other, *_ = alike.values()
        raise DataError(
            f"{where}: the options {one!r:.60} and {other!r:.60} have the same words, and answers "
            "are graded by their words; word them differently"
        )
    question = entry.texts("question")
    if len(question) != 1:
        raise DataError(f"{where}: question must be one text")
    prompt = question_text(question[0], len(names), where)
    count = entry.fields.get("object_count")
    if count is not None and not (type(count) is int and count >= 0):
        raise DataError(f"{where}: object_count must be a whole number, got {count!r}")
    return Sample(
        id=str(entry.fields.get("id", number)),
        prompt=prompt,
        images=pictures_in(folder, names, where),
        gold=gold,
        category=str(entry.fields.get("category", without)),
        image_id="|".join(names),
        candidates=options,
        object_count=count,
    )
