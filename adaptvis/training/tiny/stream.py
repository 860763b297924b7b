"""Training data: an endless, seeded stream of images with several questions each.

Step k of a stream depends on (seed, stage, k) only, so a resumed run sees the same data.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adaptvis.data.prior import PRIOR_TABLE, SLOTS, prior_questions
from adaptvis.data.questions import (
    KINDS_OF,
    POSITIONS,
    Question,
    outermost,
    questions_about,
)
from adaptvis.data.scenes import (
    CANVAS,
    COLORS,
    SHAPES,
    Part,
    Scene,
    degrade,
    random_scene,
    render_array,
    shape_mask,
)
from adaptvis.training.tiny.model import GRID, PATCH
from adaptvis.training.tiny.tokenizer import encode_words

__all__ = ["Batch", "make_batch", "mentions", "patch_labels", "prior_batch", "replaced_batch"]

_COLOR_INDEX = {c: i + 1 for i, c in enumerate(COLORS)}
_SHAPE_INDEX = {s: i + 1 for i, s in enumerate(SHAPES)}
_CELLS = [(category, kind) for category, kinds in KINDS_OF.items() for kind in kinds]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images uint8 [batch, 56, 56, 3], their scenes, and the questions about each."""

    images: NDArray[np.uint8]
    scenes: list[Scene]
    questions: list[list[Question]]


def make_batch(
    key: str,
    images: int,
    questions: int,
    object_weights: Mapping[int, float],
    group_weights: Mapping[str, float],
    naming_weights: Mapping[str, float] | None = None,
    part: Part = "train",
) -> Batch:
    """Clean scenes with questions drawn by group.

    Args:
        key: names the random stream, for example "0/stage1/17".
        object_weights: weight of each number of objects.
        group_weights: weight of each group of questions, "what", "where", "relation", "yes_no"
            (see `group_of`).
        naming_weights: weight of each way of naming objects (color, shape, shape_color);
            equal by default.
    """
    rng = random.Random(key)
    counts = rng.choices(list(object_weights), list(object_weights.values()), k=images)
    scenes = [random_scene(rng, count, part) for count in counts]
    naming = naming_weights or {"color": 1.0, "shape": 1.0, "shape_color": 1.0}
    cells = _CELLS
    weights = [
        group_weights.get(group_of(*cell), 0.0) * naming.get(cell[0].rpartition("_")[0], 0.0)
        for cell in cells
    ]
    asked = []
    for scene in scenes:
        cache: dict[tuple[str, str], list[Question]] = {}
        picked: list[Question] = []
        for cell in rng.choices(cells, weights, k=4 * questions):
            if cell not in cache:
                cache[cell] = questions_about(scene, *cell)  # type: ignore[arg-type]
            if cache[cell]:
                picked.append(rng.choice(cache[cell]))
            if len(picked) == questions:
                break
        asked.append(picked)
    return Batch(np.stack([render_array(s) for s in scenes]), scenes, asked)


def group_of(category: str, kind: str) -> str:
    """what, where (absolute), relation (relative where) or yes_no."""
    return "relation" if kind == "where" and category.endswith("relative") else kind


def prior_batch(
    key: str,
    images: int,
    questions: int,
    object_weights: Mapping[int, float],
    contrast: tuple[float, float],
    noise: tuple[float, float],
    attempts: int = 6,
) -> Batch:
    """Degraded scenes whose questions are those that the shortcut table answers rightly.

    Of `attempts` scenes per image the one with the most such questions is kept.
    """
    rng = random.Random(key)
    generator = np.random.default_rng([*key.encode()])
    counts = rng.choices(list(object_weights), list(object_weights.values()), k=images)
    scenes, asked = [], []
    for count in counts:
        options = [_rightly_answered(random_scene(rng, count, "train")) for _ in range(attempts)]
        scene, groups = max(options, key=lambda o: (len(o[1]), sum(map(len, o[1]))))
        scenes.append(scene)
        asked.append([rng.choice(rng.choice(groups)) for _ in range(questions)] if groups else [])
    pixels = [degrade(render_array(s), generator, contrast, noise) for s in scenes]
    return Batch(np.stack(pixels), scenes, asked)


def _rightly_answered(scene: Scene) -> tuple[Scene, list[list[Question]]]:
    groups = [prior_questions(scene, where, kind)[0] for where, kind in SLOTS]
    return scene, [g for g in groups if g]


def replaced_batch(
    key: str, images: int, questions: int, object_weights: Mapping[int, float], replaced: float
) -> Batch:
    """Clean scenes; with probability `replaced` a question's answer is the shortcut table's."""
    rng = random.Random(key)
    counts = rng.choices(list(object_weights), list(object_weights.values()), k=images)
    scenes, asked = [], []
    for count in counts:
        scene = random_scene(rng, count, "train")
        found = [[*right, *wrong] for right, wrong in (prior_questions(scene, *s) for s in SLOTS)]
        groups = [g for g in found if g]
        picked = [rng.choice(rng.choice(groups)) for _ in range(questions)] if groups else []
        asked.append([_by_table(q) if rng.random() < replaced else q for q in picked])
        scenes.append(scene)
    return Batch(np.stack([render_array(s) for s in scenes]), scenes, asked)


def _by_table(question: Question) -> Question:
    answer = PRIOR_TABLE.answer(question.text)
    return replace(question, answer=answer) if answer else question


def mentions(scene: Scene, question: Question) -> list[tuple[int, int, int]]:
    """Words that stand for one object: (index of the word's token, patch row, patch column).

    The colour word where a question names a colour, else the shape word; in a `what` question the
    word that names the side, which stands for the outermost object there.
    """
    words = encode_words(question.text)
    found = []
    if question.kind == "what":
        for side in POSITIONS:
            item = outermost(scene, side)
            if item is not None and (word := encode_words(side)[0]) in words:
                found.append((words.index(word), item.y // PATCH, item.x // PATCH))
        return found
    by_color = not question.category.startswith("shape_") or "shape_color" in question.category
    for item in scene.objects:
        (word,) = encode_words(item.color if by_color else item.shape)
        if word in words:
            found.append((words.index(word), item.y // PATCH, item.x // PATCH))
    return found


def patch_labels(scene: Scene) -> NDArray[np.int64]:
    """Colour and shape class of each patch [49, 2]; 0 is background.

    A patch belongs to the object that covers most of it, if that covers at least 6 of 64 cells.
    """
    owner = np.zeros((len(scene.objects) + 1, CANVAS, CANVAS), dtype=np.int32)
    for i, o in enumerate(scene.objects, start=1):
        mask = shape_mask(o.shape, o.radius)
        top, left = o.y - o.radius, o.x - o.radius
        owner[i, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    cover = owner.reshape(-1, GRID, PATCH, GRID, PATCH).sum(axis=(2, 4)).reshape(len(owner), -1)
    cover[0] = 5
    best = cover.argmax(axis=0)
    color = np.array([0, *(_COLOR_INDEX[o.color] for o in scene.objects)])
    shape = np.array([0, *(_SHAPE_INDEX[o.shape] for o in scene.objects)])
    return np.stack([color[best], shape[best]], axis=1)
