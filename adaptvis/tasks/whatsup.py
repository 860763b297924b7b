"""WhatsUp in AdaptVis's generation protocol: photographs of objects in staged and found places.

Controlled A and B are sets of four photographs of the same two objects, one per relation; the
COCO and Visual Genome parts ask where one object is, or how two relate. Questions are the authors'
own lines, kept byte for byte: doubled spaces and full stops, blank lines and stray text included.
(WhatsUp itself ranks captions; numbers of the two protocols do not compare.)

Sources: Kamath et al. 2023 (annotations, photographs), shiqichen17/AdaptVis (prompts, scoring).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_json, read_jsonl
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.marks import question_text
from adaptvis.tasks.words import normalised_words

__all__ = ["WHATSUP", "chat_question", "grade_whatsup", "pair_and_set_accuracy"]

_HUB = "ServiceNow/whatsup_all"
_OPPOSITES = (("left", "right"), ("on", "under"), ("in-front", "behind"))


@dataclass(frozen=True, slots=True)
class _Subset:
    """Where one of the six data sets lies; ids are Google Drive's."""

    name: str
    published: str
    questions: int
    description: str
    annotation: str
    annotation_id: str
    images: str
    images_source: str
    options: tuple[str, ...]

    @property
    def prompts(self) -> str:
        count = {4: "four", 6: "six"}[len(self.options)]
        return f"prompts/{self.published}_with_answer_{count}_options.jsonl"

    @property
    def controlled(self) -> bool:
        return self.published.startswith("Controlled")


def grade_whatsup(sample: Sample, text: str) -> Grade:
    """AdaptVis's rule: the answer occurs as a substring, so "phone" contains "on".

    The one exception is theirs too: no "on" where the text has "front". Strict: the text mentions
    one option, as a word, and it is the right one.
    """
    gold = sample.gold[0]
    correct = gold in text or gold.lower() in text.lower()
    if gold.lower() == "on" and "front" in text.lower():
        correct = False
    rule = grade(text, sample.gold, sample.candidates)
    return Grade(correct=correct, strict=rule.strict, in_candidates=rule.in_candidates)


def pair_and_set_accuracy(answers: Sequence[Answered]) -> dict[str, float]:
    """Shares of pairs of opposite relations, and of sets of four, that are right throughout.

    As published the denominators are N / 2 and N / 4 whatever was asked: drawn subsets break
    pairs and sets, and these numbers fall. Ask all questions, or a grouped split.
    """
    groups: dict[str, dict[str, bool]] = {}
    for answer in answers:
        relations = groups.setdefault(answer.tags["group"], {})
        relations[answer.tags["relation"]] = answer.correct
    pairs = sum(
        group.get(one, False) and group.get(other, False)
        for group in groups.values()
        for one, other in _OPPOSITES
    )
    sets = sum(sum(group.values()) == 4 for group in groups.values())
    return {
        "pair_accuracy": pairs / (len(answers) / 2),
        "set_accuracy": sets / (len(answers) / 4),
    }


def chat_question(raw: str) -> str:
    """A published prompt without image placeholder and speaker marks, unchanged in between."""
    text = raw.replace("<image>", "", 1).strip()
    return text.removeprefix("USER:").removesuffix("ASSISTANT:").strip()


def _read(subset: _Subset, data: Data) -> Questions:
    prompts = data.folder / subset.prompts
    if data.hub is not None:
        rows = read_hub(data.hub, subset.published, images=("image_options",))
        source = f"{rows.name} sha256:{rows.digest}, prompts sha256:{digest(prompts)}"
        return Questions(source, partial(_from_hub, subset, data, rows, prompts))
    annotation = data.folder / subset.annotation
    source = f"{subset.published} sha256:{digest(annotation, prompts)}"
    return Questions(source, partial(_from_folder, subset, data, annotation, prompts))


def _from_folder(subset: _Subset, data: Data, annotation: Path, prompts: Path) -> list[Sample]:
    items = read_json(annotation)
    if not isinstance(items, list):
        raise DataError(f"{annotation}: expected a list, got {type(items).__name__}")
    samples = []
    for index, (item, line) in enumerate(_aligned(items, prompts, annotation.name)):
        where = f"{annotation}, item {index}"
        name, tags = _controlled(item, where) if subset.controlled else _found(item, subset, where)
        images = pictures_in(data.folder, (name,), where, upright=data.upright)
        samples.append(_sample(subset, index, line, images, name, tags))
    return samples


def _from_hub(subset: _Subset, data: Data, rows: HubRows, prompts: Path) -> list[Sample]:
    samples = []
    for index, (row, line) in enumerate(_aligned(rows.entries, prompts, rows.name)):
        captions = row.texts("caption_options")
        tags = _caption_tags(captions[0], row.where) if subset.controlled else {}
        images = rows.images(index, "image_options", upright=data.upright)
        samples.append(_sample(subset, index, line, images, f"row {index}", tags))
    return samples


def _aligned(items: Sequence[Any], prompts: Path, name: str) -> Sequence[tuple[Any, Entry]]:
    lines = read_jsonl(prompts)
    if len(lines) != len(items):
        raise DataError(
            f"{prompts} has {len(lines)} questions and {name} {len(items)} items; they belong "
            "together line by line, so download both again"
        )
    return list(zip(items, lines, strict=True))


def _sample(
    subset: _Subset, index: int, line: Entry, images: Pictures, image_id: str, tags: dict[str, str]
) -> Sample:
    raw = line.text("question")
    gold = line.texts("answer")
    return Sample(
        id=f"{subset.name}-{index:04d}",
        prompt=question_text(chat_question(raw), 0, line.where),
        raw_prompt=raw,
        images=images,
        gold=gold,
        category=gold[0].lower(),
        image_id=image_id,
        candidates=_offered(raw, gold, subset.options),
        tags={"relation": gold[0].lower(), **tags},
    )


def _offered(raw: str, gold: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """The options that a question itself offers: a few do not offer the usual ones.

    A right answer that is not offered belongs to them all the same.
    """
    line = raw.lower().rpartition("answer with")[2].lstrip().partition("\n")[0]
    words = normalised_words(line)
    offered = [option for option in _OPTIONS if option in words]
    if len(offered) < 2:
        return tuple(usual)
    offered += [answer.lower() for answer in gold if answer.lower() not in offered]
    # In their usual order where they are the usual ones.
    return tuple(usual) if set(offered) == set(usual) else tuple(offered)


def _controlled(item: Any, where: str) -> tuple[str, dict[str, str]]:
    """Image and tags of an item of Controlled A or B; the file name says what it shows."""
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object with image_path, got {type(item).__name__}")
    name = Entry(item, where).text("image_path")
    words = Path(name).stem.split("_")
    if len(words) < 3:
        raise DataError(f"{where}: the image {name!r} is not named <object>_<relation>_<object>")
    return name, {"group": f"{words[0]} {words[-1]}", "relation": words[1]}


def _found(item: Any, subset: _Subset, where: str) -> tuple[str, dict[str, str]]:
    """Image of an item of the COCO and Visual Genome parts: [image id, right, wrong caption]."""
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], int | str):
        raise DataError(f"{where}: expected [image id, right caption, wrong caption]")
    width = 12 if subset.published.startswith("COCO") else 0
    return f"{subset.images}{str(item[0]).zfill(width)}.jpg", {}


_CAPTION = re.compile(
    r"(?P<object>.+?) (?:to the )?(?P<relation>left of|right of|on|under|in[- ]front of|behind) "
    r"(?P<reference>.+)"
)


def _caption_tags(caption: str, where: str) -> dict[str, str]:
    """What the file name says, read from the right caption: the hub copy has no file names."""
    match = _CAPTION.fullmatch(caption.strip())
    if match is None:
        raise DataError(f"{where}: the caption {caption!r:.80} names no known relation")
    relation = match["relation"].replace(" ", "-").removesuffix("-of")
    objects = [" ".join(normalised_words(match[part])) for part in ("object", "reference")]
    return {"group": " / ".join(objects), "relation": relation}


_DRIVE = "Google Drive id"
_COCO = f"{_DRIVE} 1zp5vBRRM4_nSik6o9PeVspDvOsHgPT4l, or COCO's val2017.zip"
_VG = f"{_DRIVE} 1idW7Buoz7fQm4-670n-oERw9U-2JLJvE (vg_images.tar.gz)"

_SUBSETS = (
    _Subset(
        name="controlled_a",
        published="Controlled_Images_A",
        questions=412,
        description="WhatsUp Controlled A: an object is left, right, on or under another",
        annotation="data/controlled_images_dataset.json",
        annotation_id="1ap8mmmpQjLIjPGuplkpBgc1hoEHCj4hm",
        images="data/controlled_images/",
        images_source=f"{_DRIVE} 19KGYVQjrV3syb00GgcavB2nZTW5NXX0H (controlled_images.tar.gz)",
        options=("left", "right", "on", "under"),
    ),
    _Subset(
        name="controlled_b",
        published="Controlled_Images_B",
        questions=408,
        description="WhatsUp Controlled B: an object is left, right, in front of or behind another",
        annotation="data/controlled_clevr_dataset.json",
        annotation_id="1unNNosLbdy9NDjgj4l8fsQP3WiAAGA6z",
        images="data/controlled_clevr/",
        images_source=f"{_DRIVE} 13jdBpg8t3NqW3jrL6FK8HO93vwsUjDxG (controlled_clevr.tar.gz)",
        options=("left", "right", "front", "behind"),
    ),
    _Subset(
        name="coco_one",
        published="COCO_QA_one_obj",
        questions=2247,
        description="WhatsUp COCO, one object: in which part of the photo it is",
        annotation="data/coco_qa_one_obj.json",
        annotation_id="1RsMdpE9mmwnK4zzMPpC1-wTU_hNis-dq",
        images="data/val2017/",
        images_source=_COCO,
        options=("left", "right", "top", "bottom"),
    ),
    _Subset(
        name="coco_two",
        published="COCO_QA_two_obj",
        questions=440,
        description="WhatsUp COCO, two objects: left, right, above or below",
        annotation="data/coco_qa_two_obj.json",
        annotation_id="1TCEoM0mgFmz8T4cF7PQ3XJmO6JjtiQ-s",
        images="data/val2017/",
        images_source=_COCO,
        options=("left", "right", "above", "below"),
    ),
    _Subset(
        name="vg_one",
        published="VG_QA_one_obj",
        questions=1160,
        description="WhatsUp Visual Genome, one object: where in the photo it is, six options",
        annotation="data/vg_qa_one_obj.json",
        annotation_id="1ARMRzRdohs9QTr1gpIfzyUzvW20wYp_p",
        images="data/vg_images/",
        images_source=_VG,
        options=("left", "right", "front", "behind", "top", "bottom"),
    ),
    _Subset(
        name="vg_two",
        published="VG_QA_two_obj",
        questions=291,
        description="WhatsUp Visual Genome, two objects: how they relate, six options",
        annotation="data/vg_qa_two_obj.json",
        annotation_id="1sjVG5O3QMY8s118k7kQM8zzDZH12i_95",
        images="data/vg_images/",
        images_source=_VG,
        options=("left", "right", "front", "behind", "above", "below"),
    ),
)


def _benchmark(subset: _Subset) -> Benchmark:
    prompts = "the repository shiqichen17/AdaptVis"
    return Benchmark(
        name=subset.name,
        description=subset.description,
        questions=subset.questions,
        folder="whatsup",
        wanted=(
            Wanted(subset.annotation, f"{_DRIVE} {subset.annotation_id}"),
            Wanted(subset.images, subset.images_source),
            Wanted(subset.prompts, prompts, local=True),
        ),
        read=partial(_read, subset),
        grader=grade_whatsup,
        metrics=pair_and_set_accuracy if subset.controlled else None,
        hub=_HUB,
        hub_note=f"the hub has no questions: {subset.prompts} is needed in the folder as well",
        joined_by="group" if subset.controlled else None,
        split="reference",
        max_new_tokens=100,
        upright=False,
    )


_OPTIONS = tuple(dict.fromkeys(option for subset in _SUBSETS for option in subset.options))

WHATSUP = tuple(_benchmark(subset) for subset in _SUBSETS)
