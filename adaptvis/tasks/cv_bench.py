"""CV-Bench: counting and relations in 2D, depth and distance in 3D, as multiple choice.

Source: Tong et al. 2024 (Cambrian-1), nyu-visionx/CV-Bench; the prompt's last line is LLaVA's.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from adaptvis.errors import DataError
from adaptvis.tasks.base import Answered, Pictures, Sample
from adaptvis.tasks.benchmark import Benchmark, Data, Questions, Wanted
from adaptvis.tasks.files import Entry, digest, read_jsonl
from adaptvis.tasks.grading import Grade
from adaptvis.tasks.hub import HubRows, read_hub
from adaptvis.tasks.images import pictures_in
from adaptvis.tasks.options import cambrian_letter, letters_mentioned, lmms_eval_letter
from adaptvis.tasks.suffixes import OPTION_LETTER

__all__ = ["CV_BENCH", "cv_bench_metrics", "grade_cv_bench"]

_KINDS = {"2d": ("2d",), "3d": ("3d",), "": ("2d", "3d")}
_TASKS = ("Count", "Relation", "Depth", "Distance")
_SOURCES = ("ADE20K", "COCO", "Omni3D")


def grade_cv_bench(sample: Sample, text: str) -> Grade:
    """Cambrian's parser gives the right letter. Strict: the one letter mentioned is the right one.

    The strict rule counts letters in a form that cannot be a word.
    """
    letter = sample.gold[0].strip("()")
    letters = [candidate.strip("()") for candidate in sample.candidates]
    return Grade(
        correct=cambrian_letter(text) == letter.lower(),
        strict=letters_mentioned(text, letters) == {letter},
        in_candidates=text.strip().strip("().").strip().upper() in letters,
    )


def cv_bench_metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """Accuracy by task and source, both aggregates, and under lmms-eval's parser.

    official_2d: the mean of the accuracies on ADE20K and COCO; official_3d: that on Omni3D;
    official: the mean of the two. Each is there only where its sources were asked. pooled: of all
    questions alike, which is not the official scale.
    """
    groups: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        groups[answer.tags["task"]].append(answer.correct)
        groups[answer.tags["source"]].append(answer.correct)
    means = {name: sum(right) / len(right) for name, right in groups.items()}
    result = {f"accuracy_{n.lower()}": means[n] for n in (*_TASKS, *_SOURCES) if n in means}
    official = {}
    if {"ADE20K", "COCO"} <= means.keys():
        official["official_2d"] = (means["ADE20K"] + means["COCO"]) / 2
    if "Omni3D" in means:
        official["official_3d"] = means["Omni3D"]
    if len(official) == 2:
        official["official"] = sum(official.values()) / 2
    other = [lmms_eval_letter(a.answer) == a.gold[0].strip("()") for a in answers]
    return {
        **result,
        **official,
        "pooled": sum(a.correct for a in answers) / len(answers),
        "lmms_eval_pooled": sum(other) / len(other),
    }


def _read(kind: str, data: Data) -> Questions:
    parts = _KINDS[kind]
    if data.hub is not None:
        tables = [read_hub(data.hub, "test", p.upper(), images=("image",)) for p in parts]
        source = ", ".join(f"{rows.name} sha256:{rows.digest}" for rows in tables)
        return Questions(source, partial(_from_hub, tables))
    paths = [data.folder / f"test_{part}.jsonl" for part in parts]
    names = ", ".join(path.name for path in paths)
    source = f"CV-Bench {names} sha256:{digest(*paths)}"
    return Questions(source, partial(_from_folder, data.folder, paths))


def _from_folder(folder: Path, paths: Sequence[Path]) -> list[Sample]:
    samples = []
    for entry in (entry for path in paths for entry in read_jsonl(path)):
        images = pictures_in(folder, (entry.text("filename"),), entry.where)
        samples.append(_sample(entry, images))
    return samples


def _from_hub(tables: Sequence[HubRows]) -> list[Sample]:
    return [_sample(e, rows.images(i)) for rows in tables for i, e in enumerate(rows.entries)]


def _sample(entry: Entry, images: Pictures) -> Sample:
    letters = tuple(f"({chr(65 + i)})" for i in range(len(entry.texts("choices"))))
    answer = entry.text("answer")
    if answer not in letters:
        raise DataError(
            f"{entry.where}: the answer {answer!r:.20} is not among the options {' '.join(letters)}"
        )
    task = entry.one_of("task", _TASKS)
    # Several questions are cut from one picture, under a file name each.
    original = entry.fields.get("source_filename") or entry.text("filename")
    return Sample(
        id=f"cv-bench-{entry.text('type').lower()}-{entry.whole('idx')}",
        prompt=entry.question("prompt") + OPTION_LETTER,
        images=images,
        gold=(answer,),
        category=task,
        image_id=str(original),
        candidates=letters,
        tags={"task": task, "source": entry.text("source"), "type": entry.text("type")},
    )


def _benchmark(kind: str, description: str, questions: int) -> Benchmark:
    files = [f"test_{part}.jsonl" for part in _KINDS[kind]]
    return Benchmark(
        name=f"cv-bench-{kind}" if kind else "cv-bench",
        description=description,
        questions=questions,
        folder="cv-bench",
        wanted=(
            *(Wanted(file, "the hub data set nyu-visionx/CV-Bench") for file in files),
            Wanted("img/", "the hub data set nyu-visionx/CV-Bench"),
        ),
        read=partial(_read, kind),
        grader=grade_cv_bench,
        metrics=cv_bench_metrics,
        hub="nyu-visionx/CV-Bench",
    )


CV_BENCH = (
    _benchmark("", "CV-Bench whole: 2D and 3D with the official mean of the two", 2638),
    _benchmark("2d", "CV-Bench 2D: counts and relations of objects, multiple choice", 1438),
    _benchmark("3d", "CV-Bench 3D: which object is nearer, multiple choice", 1200),
)
