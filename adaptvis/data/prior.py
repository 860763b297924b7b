"""2ds-prior: scenes in which the text alone suggests an answer.

A fixed table maps what a question names to an answer: the colour fixes "where is X", the ordered
pair of colours fixes the relation. Three splits: `skewed` (the table is always right: training on
it teaches a shortcut), `balanced` (the table is right at chance: a quarter of the four-way `where`
questions and half of the yes/no questions) and `conflicting` (the table is always wrong). Every
answer is true of the picture; only the choice of scenes and questions differs.
"""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from PIL import Image

from adaptvis.data.questions import (
    OPPOSITE,
    PHRASE,
    POSITIONS,
    RELATIONS,
    Kind,
    Question,
    asked_objects,
    pick_balanced,
    questions_about,
)
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import (
    COLORS,
    Part,
    Scene,
    check_part,
    degrade,
    random_scene,
    render_array,
)
from adaptvis.errors import DataError

__all__ = ["PRIOR_TABLE", "SLOTS", "PriorSplit", "PriorTable", "generate_prior", "prior_questions"]

PriorSplit = Literal["balanced", "conflicting", "skewed"]

SLOTS: tuple[tuple[Literal["absolute", "relative"], Kind], ...] = (
    ("absolute", "where"),
    ("relative", "where"),
    ("relative", "yes_no"),
)
"""The questions asked about each image."""


@dataclass(frozen=True, slots=True)
class PriorTable:
    """The shortcut: colour -> position, ordered pair of colours -> relation."""

    position: Mapping[str, str]
    relation: Mapping[tuple[str, str], str]

    def answer(self, text: str) -> str | None:
        """What the table suggests for a question's text; None where it names no colours."""
        words = text.lower().rstrip("?").split()
        colors = [w for w in words if w in self.position]
        match words[0], len(colors):
            case "where", 1:
                return self.position[colors[0]]
            case "where", 2:
                return self.relation[colors[0], colors[1]]
            case "is", 2:
                claim = next(
                    r
                    for r in RELATIONS
                    if PHRASE[r].split()[-1 if r in "above below" else 2] in words
                )
                return "yes" if self.relation[colors[0], colors[1]] == claim else "no"
            case _:
                return None


def _table() -> PriorTable:
    position = {color: POSITIONS[i % 4] for i, color in enumerate(COLORS)}
    relation = {}
    for i, (a, b) in enumerate(combinations(COLORS, 2)):
        relation[a, b] = RELATIONS[i % 4]
        relation[b, a] = OPPOSITE[RELATIONS[i % 4]]
    return PriorTable(MappingProxyType(position), MappingProxyType(relation))


PRIOR_TABLE = _table()


def prior_questions(
    scene: Scene, asked: str, kind: Kind, table: PriorTable = PRIOR_TABLE
) -> tuple[list[Question], list[Question]]:
    """The scene's questions that name colours: (table is right, table is wrong)."""
    right: list[Question] = []
    wrong: list[Question] = []
    for naming in ("color", "shape_color"):
        for question in questions_about(scene, f"{naming}_{asked}", kind):  # type: ignore[arg-type]
            (right if table.answer(question.text) == question.answer else wrong).append(question)
    return right, wrong


def generate_prior(
    split: PriorSplit = "balanced",
    part: Part = "test",
    seed: int = 0,
    count: int = 3000,
    *,
    object_counts: tuple[int, ...] = (2, 3, 4),
) -> list[Sample]:
    """`count` questions, three per image; the same arguments give the same samples.

    Images are clean, except those of `split="skewed", part="train"`, which are seen degraded as
    in training.

    Raises:
        DataError: unknown split or part, or a count below 1.
    """
    check_part(part)
    if split not in get_args(PriorSplit):
        raise DataError(
            f"Unknown split {split!r}: choose one of {', '.join(get_args(PriorSplit))}."
        )
    if count < 1:
        raise DataError(f"count must be at least 1, not {count}.")
    rng = random.Random(f"prior/{split}/{part}/{seed}")
    noise = np.random.default_rng([seed, *f"{split}/{part}".encode()])
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    samples: list[Sample] = []
    for index in range(-(-count // len(SLOTS))):
        targets = [_wanted(split, kind, index) for _, kind in SLOTS]
        scene, questions = _scene_for(targets, rng, part, object_counts, counts)
        pixels = render_array(scene)
        if split == "skewed" and part == "train":
            pixels = degrade(pixels, noise)
        image, image_id = Image.fromarray(pixels), f"prior-{split}-{part}-{seed}-{index:05d}"
        samples.extend(
            Sample(
                id=f"{image_id}-{asked}-{kind}",
                image_id=image_id,
                image=image,
                question=q.text,
                answer=q.answer,
                category=q.category,
                kind=q.kind,
                object_count=len(scene.objects),
                candidates=q.candidates,
                agrees=agrees,
                asked=tuple(o.box for o in asked_objects(scene, q.text)),
            )
            for q, agrees, (asked, kind) in zip(questions, targets, SLOTS, strict=True)
        )
    return samples[:count]


def _wanted(split: PriorSplit, kind: Kind, index: int) -> bool:
    """Whether the table is to be right about this question; exact quotas in `balanced`."""
    if split == "balanced":
        return index % (2 if kind == "yes_no" else 4) == 0
    return split == "skewed"


def _scene_for(
    targets: list[bool],
    rng: random.Random,
    part: Part,
    object_counts: tuple[int, ...],
    counts: dict[str, dict[str, int]],
) -> tuple[Scene, list[Question]]:
    number = rng.choice(object_counts)
    while True:
        scene = random_scene(rng, number, part)
        options = []
        for (asked, kind), target in zip(SLOTS, targets, strict=True):
            right, wrong = prior_questions(scene, asked, kind)
            options.append(right if target else wrong)
        if all(options):
            break
    keys = [f"{asked}/{kind}/{t}" for (asked, kind), t in zip(SLOTS, targets, strict=True)]
    return scene, [pick_balanced(o, counts[k], rng) for o, k in zip(options, keys, strict=True)]
