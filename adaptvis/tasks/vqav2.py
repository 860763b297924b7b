"""VQAv2 validation: open questions with ten human answers each (test answers are not public).

Source: Goyal et al. 2017; the official accuracy (not the answer processor that LLaVA's scripts and
lmms-eval apply before it); the prompt's last line is LLaVA's.
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
from adaptvis.tasks.vqa_normalisation import soft_accuracy

__all__ = ["VQAV2", "grade_vqav2", "vqav2_metrics"]

_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
# Three of ten humans: the published rule's own wish for a fully right answer.
_RIGHT = 0.9


def grade_vqav2(sample: Sample, text: str) -> Grade:
    """Score: the official soft accuracy. Correct: at least three of the ten humans said it.

    Strict: the text's words are those of the most frequent human answer.
    """
    score = soft_accuracy(text, sample.gold)
    rule = grade(text, (sample.tags["most_frequent"],))
    return Grade(
        correct=score > _RIGHT - 1e-9,
        strict=rule.strict,
        in_candidates=grade(text, sample.gold).in_candidates,
        score=score,
    )


def vqav2_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """The official soft accuracy, over all questions and by answer type."""
    groups: dict[str, list[float]] = {"vqa_accuracy": []}
    for answer in answers:
        kind = answer.tags["answer_type"].replace("/", "_")
        groups["vqa_accuracy"].append(answer.score)
        groups.setdefault(f"vqa_accuracy_{kind}", []).append(answer.score)
    return {name: sum(scores) / len(scores) for name, scores in groups.items() if scores}


def _read(data: Data) -> Questions:
    if data.hub is not None:
        rows = read_hub(data.hub, "validation", images=("image",))
        return Questions(f"{rows.name} sha256:{rows.digest}", partial(_from_hub, data, rows))
    found = digest(data.folder / _QUESTIONS, data.folder / _ANNOTATIONS)
    return Questions(f"VQAv2 val2014 sha256:{found}", partial(_from_folder, data))


def _from_folder(data: Data) -> list[Sample]:
    annotations = {e.whole("question_id"): e for e in _entries(data, _ANNOTATIONS, "annotations")}
    samples = []
    for question in _entries(data, _QUESTIONS, "questions"):
        identifier = question.whole("question_id")
        if identifier not in annotations:
            raise DataError(f"{question.where}: question {identifier} has no annotation")
        name = f"COCO_val2014_{question.whole('image_id'):012d}.jpg"
        images = pictures_in(data.folder / "val2014", (name,), question.where, upright=data.upright)
        samples.append(_sample(question, annotations[identifier], images))
    return samples


def _entries(data: Data, name: str, key: str) -> list[Entry]:
    path = data.folder / name
    value = read_json(path)
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{path}: expected an object with a list of objects under {key!r}")
    return [Entry(item, f"{path}, {key}[{index}]") for index, item in enumerate(items)]


def _from_hub(data: Data, rows: HubRows) -> list[Sample]:
    return [_sample(e, e, rows.images(i, upright=data.upright)) for i, e in enumerate(rows.entries)]


def _sample(question: Entry, annotation: Entry, images: Pictures) -> Sample:
    kind = annotation.text("answer_type")
    return Sample(
        id=f"vqav2-{question.whole('question_id')}",
        prompt=question.question("question") + SHORT_ANSWER,
        images=images,
        gold=_answers(annotation),
        category=kind,
        image_id=str(question.whole("image_id")),
        tags={
            "answer_type": kind,
            "question_type": annotation.text("question_type"),
            "most_frequent": annotation.text("multiple_choice_answer"),
        },
    )


def _answers(annotation: Entry) -> tuple[str, ...]:
    value = annotation.value("answers")
    items = value if isinstance(value, list) else []
    texts = [item.get("answer") if isinstance(item, dict) else None for item in items]
    answers = tuple(text for text in texts if isinstance(text, str))
    if not answers or len(answers) < len(items):
        raise DataError(
            f"{annotation.where}: answers must be a non-empty list of objects with a text answer"
        )
    return answers


VQAV2 = Benchmark(
    name="vqav2",
    description="VQAv2 validation: open questions, soft accuracy against ten human answers",
    questions=214354,
    folder="vqav2",
    wanted=(
        Wanted(_QUESTIONS, "v2_Questions_Val_mscoco.zip of visualqa.org"),
        Wanted(_ANNOTATIONS, "v2_Annotations_Val_mscoco.zip of visualqa.org"),
        Wanted("val2014/", "images.cocodataset.org/zips/val2014.zip"),
    ),
    read=_read,
    grader=grade_vqav2,
    metrics=vqav2_metrics,
    hub="lmms-lab/VQAv2",
    upright=False,
)
