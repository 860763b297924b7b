"""GQA test-dev balanced: compositional questions about scene graphs, answered in a word or two.

Source: Hudson and Manning 2019; prompt and answer processing of LLaVA's evaluation.
"""

from collections.abc import Sequence
from functools import partial

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_json
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.suffixes import SHORT_ANSWER

__all__ = ["GQA", "gqa_metrics", "grade_gqa"]

_FILE = "testdev_balanced_questions.json"
_CONFIGURATION = "testdev_balanced"
_UNKNOWN = "unknown"


def grade_gqa(sample: Sample, text: str) -> Grade:
    """Exact match of the lower-cased text without its last full stops. Strict: of its words.

    Strict is the more lenient here: it forgives articles, punctuation and blanks around.
    """
    rule = grade(text, sample.gold)
    return Grade(
        correct=text.rstrip(".").lower() == sample.gold[0],
        strict=rule.strict,
        in_candidates=rule.in_candidates,
    )


def gqa_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """Accuracy on open questions ("query") and on the others, as the official script splits."""
    groups: dict[str, list[bool]] = {"open_accuracy": [], "binary_accuracy": []}
    for answer in answers:
        kind = answer.tags["structural"]
        if kind != _UNKNOWN:
            groups["open_accuracy" if kind == "query" else "binary_accuracy"].append(answer.correct)
    return {name: sum(right) / len(right) for name, right in groups.items() if right}


def _read(data: Data) -> Questions:
    if data.hub is not None:
        rows = read_hub(data.hub, "testdev", f"{_CONFIGURATION}_instructions")
        return Questions(f"{rows.name} sha256:{rows.digest}", partial(_from_hub, data, rows))
    path = data.folder / _FILE
    return Questions(f"GQA {_FILE} sha256:{digest(path)}", partial(_from_folder, data))


def _from_folder(data: Data) -> list[Sample]:
    path = data.folder / _FILE
    questions = read_json(path)
    if not isinstance(questions, dict):
        raise DataError(f"{path}: expected an object of questions by id")
    samples = []
    for identifier, fields in questions.items():
        where = f"{path}, question {identifier}"
        if not isinstance(fields, dict):
            raise DataError(f"{where}: expected an object, got {type(fields).__name__}")
        entry = Entry(fields, where)
        name = f"{entry.text('imageId')}.jpg"
        images = pictures_in(data.folder / "images", (name,), where, upright=data.upright)
        samples.append(_sample(entry, identifier, images))
    return samples


def _from_hub(data: Data, rows: HubRows) -> list[Sample]:
    pictures = read_hub(str(data.hub), "testdev", f"{_CONFIGURATION}_images", images=("image",))
    positions = {entry.text("id"): index for index, entry in enumerate(pictures.entries)}
    samples = []
    for entry in rows.entries:
        image = entry.text("imageId")
        if image not in positions:
            raise DataError(f"{entry.where}: no image {image!r} in {pictures.name}")
        images = pictures.images(positions[image], upright=data.upright)
        samples.append(_sample(entry, entry.text("id"), images))
    return samples


def _sample(entry: Entry, identifier: str, images: Pictures) -> Sample:
    types = entry.fields.get("types")
    kinds = types if isinstance(types, dict) else {}
    structural = str(kinds.get("structural") or _UNKNOWN)
    return Sample(
        id=f"gqa-{identifier}",
        prompt=entry.question("question") + SHORT_ANSWER,
        images=images,
        gold=(entry.text("answer"),),
        category=structural,
        image_id=entry.text("imageId"),
        tags={"structural": structural, "semantic": str(kinds.get("semantic") or _UNKNOWN)},
    )


GQA = Benchmark(
    name="gqa",
    description="GQA test-dev balanced: objects, attributes and relations, in a word or two",
    questions=12578,
    folder="gqa",
    wanted=(
        Wanted(_FILE, "questions1.2.zip of GQA (cs.stanford.edu/people/dorarad/gqa)"),
        Wanted("images/", "images.zip of GQA"),
    ),
    read=_read,
    grader=grade_gqa,
    metrics=gqa_metrics,
    hub="lmms-lab/GQA",
    upright=False,
)
