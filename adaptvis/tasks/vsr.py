"""VSR (visual spatial reasoning), zero-shot test split: is a caption true of its picture?

Rules and prompt as AdaptVis has them. Its "precision" and "recall" are the rates of right answers
among true and among false captions, and its F1 is their harmonic mean: here `reference_f1`, beside
the F1 that everybody else means.

Sources: Liu et al. 2023 (cambridgeltl/visual-spatial-reasoning), shiqichen17/AdaptVis.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL.Image import Image

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_jsonl
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.hub import read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.yes_no import ratio, yes_no_scores

__all__ = ["VSR", "grade_vsr", "vsr_metrics"]

_INSTRUCTION = (
    "Determine whether the description about the spatial relationship is correct or not. "
    "Answer with yes or no: "
)
_REFERENCE_SIZE = (2300, 4096)


def grade_vsr(sample: Sample, text: str) -> Grade:
    """AdaptVis's rule: "Yes", or "No", occurs with this very case. Strict: the word alone of both.

    "No" also occurs in "Not sure" and "None"; "yes" in lower case is wrong.
    """
    rule = grade(text, sample.gold, sample.candidates)
    return Grade(
        correct=sample.gold[0] in text, strict=rule.strict, in_candidates=rule.in_candidates
    )


def vsr_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """Standard precision, recall and F1 of "true", and AdaptVis's three under `reference_`.

    The standard ones are of the published rule's label under either scoring: an answer that is
    strictly wrong need not have said the other word.
    """
    labels = [answer.tags["label"] == "true" for answer in answers]
    # Whatever is not the right answer counts as the other one, as in the published counts.
    said_true = [(a.gold[0] in a.answer) == label for a, label in zip(answers, labels, strict=True)]
    scores = yes_no_scores(said_true, labels)
    positives = [a.correct for a, label in zip(answers, labels, strict=True) if label]
    negatives = [a.correct for a, label in zip(answers, labels, strict=True) if not label]
    true_rate, false_rate = (ratio(sum(x), len(x)) for x in (positives, negatives))
    return {
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "reference_precision": true_rate,
        "reference_recall": false_rate,
        "reference_f1": ratio(2 * true_rate * false_rate, true_rate + false_rate),
    }


def _read(resized: bool, data: Data) -> Questions:
    if data.hub is not None:
        rows = read_hub(data.hub, "test")
        source = f"{rows.name} sha256:{rows.digest}"
        return Questions(source, partial(_samples, rows.entries, data, resized))
    path = data.folder / "test.jsonl"
    source = f"VSR {path.name} sha256:{digest(path)}"
    return Questions(source, partial(_from_folder, data, path, resized))


def _from_folder(data: Data, path: Path, resized: bool) -> list[Sample]:
    return _samples(read_jsonl(path), data, resized)


def _samples(entries: Sequence[Entry], data: Data, resized: bool) -> list[Sample]:
    return [_sample(entry, index, data, resized) for index, entry in enumerate(entries)]


def _sample(entry: Entry, index: int, data: Data, resized: bool) -> Sample:
    label = entry.whole("label")
    if label not in (0, 1):
        raise DataError(f"{entry.where}: label must be 0 or 1, got {label}")
    link = entry.text("image_link")
    match = re.search(r"\.org/(.*)", link)
    if match is None:
        raise DataError(f"{entry.where}: image_link {link!r:.80} is not a COCO address")
    question = _INSTRUCTION + entry.question("caption")
    pictures = pictures_in(data.folder, (match.group(1),), entry.where, upright=data.upright)
    return Sample(
        id=f"vsr-{index:04d}",
        prompt=question,
        raw_prompt=f"User: <image>\n {question} Assistant:",
        images=partial(_stretched, pictures) if resized else pictures,
        gold=("Yes",) if label else ("No",),
        category=entry.text("relation"),
        image_id=match.group(1),
        candidates=("Yes", "No"),
        tags={"label": "true" if label else "false", "relation": entry.text("relation")},
    )


def _stretched(pictures: Pictures) -> tuple[Image, ...]:
    return tuple(image.resize(_REFERENCE_SIZE) for image in pictures())


def _benchmark(name: str, description: str, *, resized: bool) -> Benchmark:
    return Benchmark(
        name=name,
        description=description,
        questions=1222,
        folder="vsr",
        wanted=(
            Wanted("test.jsonl", "the hub data set cambridgeltl/vsr_zeroshot"),
            Wanted("train2017/", "images.cocodataset.org/zips/train2017.zip", local=True),
            Wanted(
                *("val2017/", "images.cocodataset.org/zips/val2017.zip"), optional=True, local=True
            ),
        ),
        read=partial(_read, resized),
        grader=grade_vsr,
        metrics=vsr_metrics,
        hub="cambridgeltl/vsr_zeroshot",
        hub_note="the hub has no images: train2017/ is needed in the folder as well",
        split="reference",
        max_new_tokens=100,
        upright=False,
    )


VSR = (
    _benchmark(
        "vsr",
        "VSR zero-shot test: is a caption true; pictures stretched to 2300 x 4096 as in AdaptVis",
        resized=True,
    ),
    _benchmark(
        "vsr-unresized",
        "VSR zero-shot test with the pictures as they are, for models that keep the resolution",
        resized=False,
    ),
)
