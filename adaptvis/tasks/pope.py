"""POPE: is an object in the picture, with absent objects that are random, popular or adversarial.

Source: Li et al. 2023 (RUCAIBox/POPE); the prompt's last line is LLaVA's.
"""

from collections.abc import Sequence
from functools import partial

from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_jsonl
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.suffixes import SHORT_ANSWER
from adaptvis.tasks.yes_no import ratio, yes_no_scores

__all__ = ["POPE", "grade_pope", "parse_pope", "pope_metrics"]

_LABELS = ("yes", "no")
_SUBSETS = ("random", "popular", "adversarial")


def parse_pope(text: str) -> str:
    """The official parser: "no" where the first sentence has the word No, no or not, else "yes".

    So "None", "NO" and an empty answer are yes.
    """
    sentence = text.split(".")[0].replace(",", "")
    return "no" if {"No", "not", "no"} & set(sentence.split(" ")) else "yes"


def grade_pope(sample: Sample, text: str) -> Grade:
    """The official parser's word is the label. Strict: one of the words yes and no, the right."""
    rule = grade(text, sample.gold, sample.candidates)
    return Grade(
        correct=parse_pope(text) == sample.gold[0],
        strict=rule.strict,
        in_candidates=rule.in_candidates,
    )


def pope_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """Accuracy, and precision, recall, F1 and the share of predicted yes.

    All but accuracy are of the official parser's word under either scoring: an answer that is
    strictly wrong need not have said the other word.
    """
    labels = [answer.tags["label"] == "yes" for answer in answers]
    predicted = [parse_pope(answer.answer) == "yes" for answer in answers]
    scores = yes_no_scores(predicted, labels)._asdict()
    return scores | {"accuracy": ratio(sum(a.correct for a in answers), len(answers))}


def _read(subset: str, data: Data) -> Questions:
    if data.hub is not None:
        rows = read_hub(data.hub, subset, "Full", images=("image",))
        return Questions(f"{rows.name} sha256:{rows.digest}", partial(_from_hub, data, rows))
    path = data.folder / f"coco_pope_{subset}.json"
    return Questions(f"{path.name} sha256:{digest(path)}", partial(_from_folder, data, path.name))


def _from_folder(data: Data, name: str) -> list[Sample]:
    samples = []
    for entry in read_jsonl(data.folder / name):
        image = entry.text("image")
        images = pictures_in(data.folder / "val2014", (image,), entry.where, upright=data.upright)
        samples.append(_sample(entry, entry.question("text"), entry.text("label"), image, images))
    return samples


def _from_hub(data: Data, rows: HubRows) -> list[Sample]:
    samples = []
    for index, entry in enumerate(rows.entries):
        question, image = entry.question("question"), entry.text("image_source")
        images = rows.images(index, upright=data.upright)
        samples.append(_sample(entry, question, entry.text("answer"), image, images))
    return samples


def _sample(entry: Entry, question: str, label: str, image_id: str, images: Pictures) -> Sample:
    label = Entry({"label": label.strip().lower()}, entry.where).one_of("label", _LABELS)
    return Sample(
        id=f"pope-{entry.whole('question_id')}",
        prompt=question + SHORT_ANSWER,
        images=images,
        gold=(label,),
        category=label,
        image_id=image_id,
        candidates=_LABELS,
        tags={"label": label},
    )


def _benchmark(subset: str) -> Benchmark:
    file = f"coco_pope_{subset}.json"
    return Benchmark(
        name=f"pope-{subset}",
        description=f"POPE, {subset}: is an object in the picture; half of the answers are yes",
        questions=3000,
        folder="pope",
        wanted=(
            Wanted(file, f"the repository RUCAIBox/POPE, output/coco/{file}"),
            Wanted("val2014/", "images.cocodataset.org/zips/val2014.zip"),
        ),
        read=partial(_read, subset),
        grader=grade_pope,
        metrics=pope_metrics,
        hub="lmms-lab/POPE",
        max_new_tokens=16,
        upright=False,
    )


POPE = tuple(_benchmark(subset) for subset in _SUBSETS)
