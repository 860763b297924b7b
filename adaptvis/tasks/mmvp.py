"""MMVP: pairs of pictures that CLIP hardly tells apart, one question with opposite answers.

Graded by the option's letter or text; the published grading asks GPT. A pair counts only where
both answers are right.
Four published labels are swapped (tsb0601/MMVP issue 30, lmms-eval issue 1018): `mmvp` takes the
labels of the file as they are, `mmvp-corrected` sets these four right.

Source: Tong et al. 2024 (Eyes Wide Shut).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_csv
from adaptvis.tasks.grading import Grade, mentioned
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.options import cambrian_option, letters_mentioned, parse_letter
from adaptvis.tasks.suffixes import OPTION_LETTER
from adaptvis.tasks.words import normalised_words

__all__ = ["MMVP", "grade_mmvp", "mmvp_metrics"]

_COLUMNS = ("Index", "Question", "Options", "Correct Answer")
# How a published revision of the file spells it, with a small L.
_MISSPELT = {"lndex": "Index"}
_LETTERS = ("(a)", "(b)")
_OPTIONS = re.compile(r"\s*\(a\)\s*(.*\S)\s*\(b\)\s*(.*\S)\s*", re.DOTALL | re.IGNORECASE)
_CORRECTIONS = {99: "(b)", 100: "(a)", 279: "(b)", 280: "(a)"}


def grade_mmvp(sample: Sample, text: str) -> Grade:
    """The one letter that the text gives is right, or without a letter the one option's text.

    "A closed butterfly" gives no letter, and the option (b) Closed. Strict: of letters and texts
    together exactly one option is mentioned, the right one.
    """
    gold = sample.gold[0].strip("()").upper()
    options = _options(sample.tags)
    phrases = mentioned(text, list(options))
    texts = {letter for phrase, letter in options.items() if phrase in phrases}
    letter = parse_letter(text, "AB")
    letters = letters_mentioned(text, "AB")
    alone = text.strip().strip("().").strip().upper() in ("A", "B")
    words = normalised_words(text)
    return Grade(
        correct=letter == gold if letter or letters else texts == {gold},
        strict=letters | texts == {gold},
        in_candidates=alone or any(normalised_words(phrase) == words for phrase in options),
    )


def mmvp_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of pairs with both answers right, of the pairs that were asked completely.

    cambrian_pair_accuracy: the same under the rule of Cambrian's and *Beyond Semantics*' graders:
    the answer is the letter or the option's text and nothing else. Only where the texts are known.
    """
    whole = {"pair_accuracy": _whole_pairs(answers, lambda answer: answer.correct)}
    if all(_LETTERS[0] in answer.tags for answer in answers):
        whole["cambrian_pair_accuracy"] = _whole_pairs(answers, _right_for_cambrian)
    return {name: sum(right) / len(right) for name, right in whole.items() if right}


def _whole_pairs(answers: Sequence[Answered], is_right: Callable[[Answered], bool]) -> list[bool]:
    """Whether both answers are right, of each pair that has both."""
    pairs: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        pairs[answer.tags["pair"]].append(is_right(answer))
    return [all(right) for right in pairs.values() if len(right) == 2]


def _right_for_cambrian(answer: Answered) -> bool:
    gold = answer.gold[0]
    return cambrian_option(answer.answer) in (gold.strip("()"), answer.tags[gold].lower())


def _options(tags: Mapping[str, str]) -> dict[str, str]:
    """The letters of the options by their texts."""
    return {tags[mark]: mark.strip("()").upper() for mark in _LETTERS if mark in tags}


def _read(corrected: bool, data: Data) -> Questions:
    suffix = ", labels of 99, 100, 279 and 280 corrected" if corrected else ""
    if data.hub is not None:
        rows = read_hub(data.hub, "train", images=("image",))
        return Questions(
            f"{rows.name} sha256:{rows.digest}{suffix}", partial(_from_hub, data, rows, corrected)
        )
    found = digest(data.folder / "Questions.csv")
    return Questions(f"MMVP sha256:{found}{suffix}", partial(_from_folder, data, corrected))


def _from_folder(data: Data, corrected: bool) -> list[Sample]:
    samples = []
    for entry in read_csv(data.folder / "Questions.csv", _COLUMNS, _MISSPELT):
        name = f"{entry.whole('Index')}.jpg"
        images = pictures_in(
            data.folder / "MMVP Images", (name,), entry.where, upright=data.upright
        )
        samples.append(_sample(entry, images, corrected))
    return samples


def _from_hub(data: Data, rows: HubRows, corrected: bool) -> list[Sample]:
    return [
        _sample(entry, rows.images(index, upright=data.upright), corrected)
        for index, entry in enumerate(rows.entries)
    ]


def _sample(entry: Entry, images: Pictures, corrected: bool) -> Sample:
    index = entry.whole("Index")
    if index < 1:
        raise DataError(f"{entry.where}: Index counts from 1, got {index}")
    label = Entry({"Correct Answer": entry.text("Correct Answer").strip().lower()}, entry.where)
    answer = label.one_of("Correct Answer", _LETTERS)
    if corrected:
        answer = _CORRECTIONS.get(index, answer)
    options = _OPTIONS.fullmatch(entry.text("Options"))
    texts = dict(zip(_LETTERS, options.groups(), strict=True)) if options else {}
    return Sample(
        id=f"mmvp-{index:03d}",
        prompt=f"{entry.question('Question')} {entry.question('Options', 0)}{OPTION_LETTER}",
        images=images,
        gold=(answer,),
        category="all questions",
        image_id=str(index),
        candidates=_LETTERS,
        tags={"pair": str((index + 1) // 2), **texts},
    )


def _benchmark(name: str, description: str, *, corrected: bool) -> Benchmark:
    return Benchmark(
        name=name,
        description=description,
        questions=300,
        folder="mmvp",
        wanted=(
            Wanted("Questions.csv", "the hub data set MMVP/MMVP"),
            Wanted("MMVP Images/", "the hub data set MMVP/MMVP"),
        ),
        read=partial(_read, corrected),
        grader=grade_mmvp,
        metrics=mmvp_metrics,
        hub="lmms-lab-eval/MMVP",
        hub_note="this copy has the corrected labels; MMVP/MMVP itself holds pictures only",
        joined_by="pair",
        upright=False,
    )


MMVP = (
    _benchmark(
        "mmvp", "MMVP: pairs of look-alike pictures; labels as in the file", corrected=False
    ),
    _benchmark("mmvp-corrected", "MMVP with its four swapped labels set right", corrected=True),
)
