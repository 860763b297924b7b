"""The direction of an axis for amplification: a two-class probe of right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptvis.data.three_objects import Axis, Item
from adaptvis.diagnostics.linear_probe import Training, fit_probe, split_by_group
from adaptvis.errors import DataError
from adaptvis.evaluation.statistics import wilson_interval

__all__ = ["DirectionFit", "fit_direction"]

_DIRECTION_SHARE = 0.95


@dataclass(frozen=True)
class DirectionFit:
    """A two-class probe's direction, from the first end to the last.

    questions: answered rightly, of ``asked``; each gives the mean embedding of its answer's tokens.
    held_out: accuracy on the questions about a twentieth of the pictures, with its interval.
    """

    axis: Axis
    asked: int
    questions: int
    held_out_questions: int
    held_out: float
    low: float
    high: float
    norm: float


def fit_direction(
    items: Sequence[Item],
    right: Sequence[bool],
    embeddings: Tensor,
    axis: Axis,
    training: Training,
    seed: int,
) -> tuple[DirectionFit, Tensor]:
    """A two-class probe on the mean embeddings of rightly answered questions' answers.

    Args:
        items: two questions per picture, one after the other. right: which were answered rightly.
        embeddings: [pictures, 3, tokens, D], the tokens of the three objects.

    Returns:
        How the fit went, and the direction [D], from the first end to the last.

    Raises:
        DataError: the right answers do not hold both ends.
    """
    chosen = [index for index, good in enumerate(right) if good]
    places = [0 if items[index].asks_first else 2 for index in chosen]
    pictures = [index // 2 for index in chosen]
    labels = torch.tensor([place // 2 for place in places])
    if len(set(labels.tolist())) < 2:
        raise DataError(
            f"Only {len(chosen)} of {len(items)} {axis} questions are answered rightly, not both "
            "ends among them, so there is no direction to fit; try another kind or wording"
        )
    features = embeddings.mean(dim=2)[pictures, places]
    trains = split_by_group(pictures, _DIRECTION_SHARE, seed=seed)
    probe = fit_probe(features[trains], labels[trains], 2, training=training, seed=seed)
    hits = probe.predict(features[~trains]) == labels[~trains]
    low, high = wilson_interval(int(hits.sum()), len(hits))
    vector = probe.weight[1] - probe.weight[0]
    fit = DirectionFit(
        axis=axis,
        asked=len(items),
        questions=len(chosen),
        held_out_questions=len(hits),
        held_out=float(hits.float().mean()),
        low=low,
        high=high,
        norm=float(vector.norm()),
    )
    return fit, vector
