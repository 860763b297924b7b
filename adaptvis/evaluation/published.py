"""Rows of published tables, with what it takes to run them again and what stands in the way.

Sources: the project page and code of *Why Is Spatial Reasoning Hard for VLMs?* (AdaptVis, ICML
2025, arXiv 2503.01773), and *Beyond Semantics* v2 (arXiv 2503.17349). Values are per cent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from adaptvis.config import SteeringConfig
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.presets import PRESETS
from adaptvis.tasks import Part, Prompts

__all__ = ["PUBLISHED", "Published", "published_row"]

Certainty = Literal["verbatim", "secondary"]
"""Whether the value was read in the authors' own source, or in a source about it."""


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    model: hub id of the checkpoint; None where the source does not say which.
    config: the steering; None for the unsteered model.
    values: by metric, per cent; accuracy, or what the task computes.
    needs_data: without the published files the task would ask generated questions.
    notes: what to know before comparing.
    obstacle: why the row cannot be run; empty where it can.
    """

    name: str
    source: str
    task: str
    values: Mapping[str, float]
    model: str | None
    config: SteeringConfig | None = None
    part: Part = "test"
    prompts: Prompts = "raw"
    dtype: str = "float32"
    certainty: Certainty = "verbatim"
    needs_data: bool = False
    notes: tuple[str, ...] = ()
    obstacle: str = ""

    @property
    def baseline(self) -> str:
        """The name of the unsteered row of the same table and task."""
        return "base-" + self.name.partition("-")[2]


_ADAPTVIS = "AdaptVis, arXiv 2503.01773"
_BEYOND = "Beyond Semantics v2, arXiv 2503.17349"
_LLAVA_15 = "llava-hf/llava-1.5-7b-hf"

_TASKS = ("controlled_a", "controlled_b", "coco_one", "coco_two", "vg_one", "vg_two", "vsr")
# Per task in this order; VSR: exact match, and the published F1.
_Row = tuple[float, float, float, float, float, float, tuple[float, float]]
_LLAVA_15_ROWS: dict[str, _Row] = {
    "base": (60.3, 73.1, 53.0, 58.2, 35.9, 40.8, (62.4, 51.3)),
    "vcd": (61.5, 73.4, 53.3, 58.2, 35.8, 42.5, (62.4, 50.6)),
    "dola": (61.2, 73.4, 53.7, 57.5, 36.2, 42.1, (62.8, 53.2)),
    "scalingvis": (64.5, 75.2, 53.6, 59.4, 42.7, 48.1, (64.9, 62.5)),
    "adaptvis": (84.9, 83.8, 53.6, 59.9, 42.7, 48.1, (65.0, 62.5)),
}
_LLAVA_16_ROWS: dict[str, _Row] = {
    "base": (48.2, 63.0, 59.7, 41.8, 31.6, 7.3, (58.8, 29.4)),
    "vcd": (61.8, 65.4, 60.6, 44.9, 33.8, 11.6, (58.8, 29.4)),
    "dola": (48.2, 62.7, 59.7, 41.5, 31.5, 7.3, (59.3, 31.2)),
    "scalingvis": (97.0, 73.4, 63.1, 47.7, 38.2, 14.6, (59.1, 30.6)),
    "adaptvis": (98.2, 73.4, 63.1, 47.7, 35.2, 17.2, (62.7, 39.3)),
}

_SPLIT = (
    "the source does not say whether its figures are of the 80 % test part or of all questions, "
    "and did not publish the drawn indices: --part all asks everything"
)
_SUBSTRING = 'right is any answer that contains the right word: "on" occurs in "phone"'
_ROUNDED = "as in the published code, the confidence is rounded to two decimals and then compared"
_LOGIT = (
    "as in the published code, on VSR an unnormalised logit is compared with the threshold 0.64, "
    "which it nearly always exceeds"
)
_VSR_F1 = (
    "the published F1 of VSR is the harmonic mean of the true positive and true negative rates, "
    "not F1; it is compared with reference_f1"
)
_ANOTHER_REVISION = (
    "the public code stops with an error on COCO and Visual Genome tasks, so another revision must "
    "have given this row"
)
_PROCESSOR = "the reference ran in float32 with a batch of 1 and transformers 4.39"
_OTHER_METHOD = "VCD and DoLa are other methods, which are not part of adaptvis"
_NO_PARAMETERS = "no coefficients or thresholds were published for LLaVA-1.6"
_WHICH_16 = "the source does not say which LLaVA-1.6 checkpoint: give one with --model"
_BROKEN_VG = "7.3 is below chance: look at the answers before comparing"


def _notes(task: str, method: str) -> tuple[str, ...]:
    notes = [_SPLIT, _PROCESSOR, _VSR_F1 if task == "vsr" else _SUBSTRING]
    if task.startswith(("coco", "vg")):
        notes.append(_ANOTHER_REVISION)
    if method == "adaptvis":
        notes.append(_LOGIT if task == "vsr" else _ROUNDED)
    return tuple(notes)


def _adaptvis_rows() -> Iterator[Published]:
    for version, rows in (("1.5", _LLAVA_15_ROWS), ("1.6", _LLAVA_16_ROWS)):
        for method, row in rows.items():
            for task, cell in zip(_TASKS, row, strict=True):
                values: dict[str, float] = {}
                cells = cell if isinstance(cell, tuple) else (cell,)
                values |= zip(("accuracy", "reference_f1"), cells, strict=False)
                steered = method in ("scalingvis", "adaptvis")
                obstacle, config = "", None
                if method in ("vcd", "dola"):
                    obstacle = _OTHER_METHOD
                elif steered and version == "1.6":
                    obstacle = _NO_PARAMETERS
                elif method == "scalingvis":
                    config = PRESETS[f"scalingvis-{task}"]
                elif method == "adaptvis":
                    config = PRESETS[f"adaptvis-{task}-reference"]
                notes = _notes(task, method)
                if version == "1.6":
                    notes = (_WHICH_16, *notes)
                    notes += (_BROKEN_VG,) if task == "vg_two" else ()
                yield Published(
                    name=f"{method}-llava-{version}-{task}",
                    source=_ADAPTVIS,
                    task=task,
                    values=values,
                    model=_LLAVA_15 if version == "1.5" else None,
                    config=config,
                    notes=notes,
                    obstacle=obstacle,
                )


_GRADER = "graded by a language model and sampled at temperature 0.2; here by rule, and greedily"
_VQAV2 = (
    "the source does not say of which questions; test answers of VQAv2 are hidden, so here the "
    "validation questions are asked: expect another level"
)
_POPULAR = "the source asks the popular subset only, and samples at temperature 0.2"
_GQA = "the source also ships a sample of 3000 questions and may have asked only those"
_GQA_BASE = (
    "the source's two tables have 61.36 and 61.46 for LLaVA-1.5; differences are to the latter"
)
_POOLED = "pooled over all questions, which is not CV-Bench's official scale (the mean of sources)"
_FINE_TUNED = "it needs a fine-tuned checkpoint, which adaptvis does not have"
_PERMUTED = "shuffled image tokens are not part of adaptvis"


def _variants(*values: float) -> dict[str, float]:
    """Original and with shuffled image tokens (Table 1), + Normalize, + Multilayer (Table 3)."""
    return dict(zip(("base", "permuted", "normalize", "normalize_multilayer"), values, strict=True))


_BEYOND_ROWS: dict[str, tuple[dict[str, float], tuple[str, ...]]] = {
    "vqav2": (_variants(78.20, 77.35, 78.76, 79.17), (_VQAV2,)),
    "pope-popular": (_variants(87.30, 87.10, 87.30, 87.70), (_POPULAR,)),
    "gqa": (_variants(61.36, 58.62, 62.04, 62.52), (_GQA, _GQA_BASE, _GRADER)),
    "cv-bench-2d": (_variants(56.59, 56.26, 59.91, 58.69), (_POOLED, _GRADER)),
    "2ds": ({"base": 56.63, "normalize": 59.30, "normalize_multilayer": 64.80}, (_GRADER,)),
}
_BEYOND_OBSTACLES = {
    "permuted": _PERMUTED,
    "normalize": _FINE_TUNED,
    "normalize_multilayer": _FINE_TUNED,
}


def _beyond_rows() -> Iterator[Published]:
    for task, (row, notes) in _BEYOND_ROWS.items():
        for variant, value in row.items():
            yield Published(
                name=f"{variant}-llava-1.5-{task}",
                source=_BEYOND,
                task=task,
                values={"accuracy": value},
                model=_LLAVA_15 if variant in ("base", "permuted") else None,
                part="test" if task == "2ds" else "all",
                prompts="chat",
                dtype="auto",
                certainty="secondary",
                needs_data=task == "2ds",
                notes=notes,
                obstacle=_BEYOND_OBSTACLES.get(variant, ""),
            )


PUBLISHED: dict[str, Published] = {
    row.name: row for rows in (_adaptvis_rows(), _beyond_rows()) for row in rows
}


def published_row(name: str) -> Published:
    """The row of that name, if it can be run.

    Raises:
        ConfigError: no row has that name, or something stands in the way; the message says what.
    """
    if name not in PUBLISHED:
        near = unknown_name("row", name, PUBLISHED).rpartition("; did you mean")
        hint = f"; did you mean{near[2]}" if near[1] else ""
        raise ConfigError(f"Unknown row {name!r}{hint}: adaptvis reproduce --list shows all")
    row = PUBLISHED[name]
    if row.obstacle:
        raise ConfigError(f"The row {name} cannot be reproduced: {row.obstacle}")
    return row
