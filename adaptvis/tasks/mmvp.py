"""MMVP: pairs of pictures that CLIP hardly tells apart, one question with opposite answers.

Graded by letter; the published grading asks GPT. A pair counts only where both answers are right.
Four published labels are swapped (tsb0601/MMVP issue 30, lmms-eval issue 1018): `mmvp` takes the
labels of the file as they are, `mmvp-corrected` sets these four right.

Source: Tong et al. 2024 (Eyes Wide Shut).
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_csv
from adaptvis.tasks.grading import Grade
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.options import letters_mentioned, parse_letter
from adaptvis.tasks.suffixes import OPTION_LETTER

__all__ = ["MMVP", "grade_mmvp", "mmvp_metrics"]

_COLUMNS = ("Index", "Question", "Options", "Correct Answer")
_LETTERS = ("(a)", "(b)")
_CORRECTIONS = {99: "(b)", 100: "(a)", 279: "(b)", 280: "(a)"}


def grade_mmvp(sample: Sample, text: str) -> Grade:
    """The letter that the text gives is right. Strict: no other letter is mentioned either."""
    letter = sample.gold[0].strip("()").upper()
    return Grade(
        correct=parse_letter(text, "AB") == letter,
        strict=letters_mentioned(text, "AB") == {letter},
        in_candidates=text.strip().strip("().").strip().upper() in ("A", "B"),
    )


def mmvp_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of pairs with both answers right, of the pairs that were asked completely."""
    pairs: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        pairs[answer.tags["pair"]].append(answer.correct)
    whole = [all(right) for right in pairs.values() if len(right) == 2]
    return {"pair_accuracy": sum(whole) / len(whole)} if whole else {}


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
    for entry in read_csv(data.folder / "Questions.csv", _COLUMNS):
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
    return Sample(
        id=f"mmvp-{index:03d}",
        prompt=f"{entry.question('Question')} {entry.question('Options', 0)}{OPTION_LETTER}",
        images=images,
        gold=(answer,),
        category="all questions",
        image_id=str(index),
        candidates=_LETTERS,
        tags={"pair": str((index + 1) // 2)},
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
