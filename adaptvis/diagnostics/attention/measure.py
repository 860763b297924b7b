"""The attention instrument: many questions, averaged per layer and head."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.config import TOKEN_METHODS, SteeringConfig
from adaptvis.diagnostics.accuracy import ask_points
from adaptvis.diagnostics.attention.capture import PromptAttention, attend
from adaptvis.diagnostics.attention.overlap import attention_on_boxes, box_coverage
from adaptvis.diagnostics.attention.parts import LAST_ROW, TEXT_ROWS, check_words
from adaptvis.diagnostics.attention.result import (
    MEASURES,
    AttentionResult,
    LayerOverlap,
    RowMeans,
)
from adaptvis.diagnostics.attention.rows import balance
from adaptvis.diagnostics.clustered import clustered_mean, separation
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.engine import Query
from adaptvis.errors import DataError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.active import (
    active_steering,
    method_names,
    steering_record,
    steering_under,
    without_steering,
)
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.image_attention import token_places
from adaptvis.hf.patch import steer
from adaptvis.tasks import Sample, Task

__all__ = ["UNSTEERED", "measure_attention"]

UNSTEERED = "unsteered"

_PARTS_RULES = {
    True: "from the chat template: system prompt and beginning of sequence, the user's own words, "
    "the image, and markup",
    False: "without a chat template: everything before the image is system, everything else user "
    "text",
}

Numbers = NDArray[np.float64]


def measure_attention(
    engine: HFEngine,
    task: Task,
    samples: Sequence[Sample],
    *,
    config: SteeringConfig | None = None,
    words: Sequence[str] = (),
    batch_size: int = 1,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> AttentionResult:
    """Entropy, shares and balance per layer and head, and the overlap with asked objects.

    Questions without an image are left out, and counted in ``settings``. Attention is looked at one
    prompt at a time; see :func:`.capture.attend` for the memory.

    Args:
        config: looked at as well, beside the unsteered model, on top of what the model is
            patched with; a patched model is looked at both ways without it, too.
        words: rows of these words of the prompt, where it has them (their last occurrence).
        batch_size: questions at once where answers are needed, for the overlap.

    Raises:
        DataError: no question has an image, or no prompt contains one of the words.
    """
    if not samples:
        raise DataError("There is no question to look at; give a task with some")
    check_words([sample.prompt for sample in samples], words)
    active = steering_under(engine.model, config)
    names = (UNSTEERED, method_names(active)) if active else (UNSTEERED,)
    looks: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    overlaps: dict[str, list[tuple[int, Numbers]]] = defaultdict(list)
    tokens, covered = [], []
    rules: set[str] = set()
    looked_at: list[Sample] = []
    for done, sample in enumerate(samples, 1):
        progress("attention", done, len(samples))
        query = sample.query()
        if not query.images:
            continue
        number = len(looked_at)
        looked_at.append(sample)
        pair = attend(engine, query, config, words=words)
        rules.add(_PARTS_RULES[pair[0].from_template])
        coverage = _coverage(engine, sample, query, pair[0].tokens[2])
        if coverage is not None:
            covered.append(coverage.mean())
        tokens.append(np.array(pair[0].tokens) / sum(pair[0].tokens))
        for name, found in zip(names, pair, strict=False):
            for row, index in found.rows.items():
                looks[name, row].append((number, _measures(found, index)))
            if coverage is not None:
                weights = found.weights[:, found.rows[LAST_ROW]]
                overlaps[name].append((number, attention_on_boxes(weights, coverage)))
    without, samples = len(samples) - len(looked_at), looked_at
    if not samples:
        raise DataError(f"None of the {without} questions has an image; give a task with some")
    absent = [word for word in words if (UNSTEERED, word) not in looks]
    if absent:
        raise DataError(
            f"The tokens of {absent[0]!r} are not found behind the image of any prompt; give a "
            "shorter phrase, or a word that comes after the image"
        )
    images = [sample.image_id for sample in samples]
    overlap: tuple[LayerOverlap, ...] = ()
    if overlaps:
        points = []
        for name in names:
            # The engine takes one configuration; others are in force around it.
            around: Any = without_steering(engine.model)
            if name != UNSTEERED:
                around = nullcontext() if config is None else steer(engine.model, config)
            with around:
                points.append(
                    ask_points(
                        engine,
                        task,
                        samples,
                        config=_asked_config(engine),
                        batch_size=batch_size,
                        doing=f"answers, {name}",
                        progress=progress,
                    )
                )
        overlap = tuple(
            _overlap(name, overlaps[name], of_name, images, seed)
            for name, of_name in zip(names, points, strict=True)
        )
    text_rows = ((number, measures["entropy"]) for number, measures in looks[UNSTEERED, TEXT_ROWS])
    mean_tokens = np.mean(tokens, axis=0)
    return AttentionResult(
        engine=engine.describe(),
        settings={
            "task": task.name,
            "seed": seed,
            **(settings or {}),
            "questions": len(samples),
            "images": len(set(images)),
            "questions without an image": without,
            "prompt parts": sorted(rules),
            "steering": steering_record(active),
            "words": list(words),
        },
        means=tuple(_means(name, row, found, images) for (name, row), found in looks.items()),
        tokens=dict(zip(("system", "text", "image", "markup"), mean_tokens.tolist(), strict=True)),
        images=len(set(images)),
        overlap=overlap,
        text_entropies=tuple(
            (samples[number].id, samples[number].image_id, float(_nan_mean(entropy, axis=(0, 1))))
            for number, entropy in text_rows
        ),
        covered=float(np.mean(covered)) if covered else None,
    )


def _asked_config(engine: HFEngine) -> SteeringConfig | None:
    """With which of what is in force the engine answers under all of it.

    It shares an unsteered prefill between attention methods, but none with other image tokens.
    """
    active = active_steering(engine.model)
    tokens = [config for config in active if isinstance(config, TOKEN_METHODS)]
    return next(iter([*tokens, *active]), None)


def _measures(found: PromptAttention, row: int) -> dict[str, Any]:
    """Measure -> [L, H] of one row."""
    values = {name: getattr(found, name)[:, row] for name in MEASURES if name != "cmb"}
    return {**values, "cmb": balance(values["image"], values["text"])}


def _means(
    steering: str, row: str, found: list[tuple[int, dict[str, Any]]], images: Sequence[str]
) -> RowMeans:
    clusters = [images[number] for number, _ in found]
    heads, layers, overall = {}, {}, {}
    for measure in MEASURES:
        values = np.stack([measures[measure] for _, measures in found]).astype(np.float64)
        heads[measure] = clustered_mean(values, clusters)
        layers[measure] = clustered_mean(_nan_mean(values, axis=2), clusters)
        overall[measure] = clustered_mean(_nan_mean(values, axis=(1, 2)), clusters)
    return RowMeans(steering, row, len(found), heads, layers, overall)


def _nan_mean(values: Numbers, axis: Any) -> Numbers:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=axis) / known.sum(axis=axis)


def _coverage(engine: HFEngine, sample: Sample, query: Query, count: int) -> Numbers | None:
    """Part of each image token on the asked objects; None where that is not known."""
    if not sample.asked_boxes:
        return None
    try:
        image, boxes = token_places(engine, query, count)
    except (UnknownFamilyError, UnsupportedError):
        return None
    coverage = box_coverage(boxes, sample.asked_boxes)
    return np.where(image == 0, coverage, 0.0)


def _overlap(
    name: str,
    found: list[tuple[int, Numbers]],
    points: Numbers,
    images: Sequence[str],
    seed: int,
) -> LayerOverlap:
    """Right is what earns at least half a point; what could not be asked is left out."""
    asked = [(number, masses) for number, masses in found if not np.isnan(points[number])]
    right = np.array([points[number] >= 0.5 for number, _ in asked], dtype=bool)
    clusters = np.array([images[number] for number, _ in asked])
    masses = np.stack([masses for _, masses in asked])  # [questions, L]

    def mean(chosen: NDArray[np.bool_]) -> Any:
        if not chosen.any():
            return clustered_mean(np.full((1, masses.shape[1]), np.nan), ["none"])
        return clustered_mean(masses[chosen], clusters[chosen])

    separations = []
    for layer in range(masses.shape[1]):
        known = ~np.isnan(masses[:, layer])
        separations.append(
            separation(masses[known, layer], right[known], clusters[known], seed=seed)
        )
    return LayerOverlap(name, mean(right), mean(~right), tuple(separations))
