"""Precision, recall and F1 of yes-or-no answers, "yes" being the positive class."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["YesNoScores", "ratio", "yes_no_scores"]


class YesNoScores(NamedTuple):
    """Fractions; 0 where a denominator is 0. yes_ratio: share of *predicted* yes."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def yes_no_scores(predicted: Sequence[bool], labels: Sequence[bool]) -> YesNoScores:
    """The scores of predictions against labels, both True for yes."""
    pairs = list(zip(predicted, labels, strict=True))
    true_positives = sum(p and y for p, y in pairs)
    right = sum(p == y for p, y in pairs)
    precision = ratio(true_positives, sum(predicted))
    recall = ratio(true_positives, sum(labels))
    return YesNoScores(
        accuracy=ratio(right, len(pairs)),
        precision=precision,
        recall=recall,
        f1=ratio(2 * precision * recall, precision + recall),
        yes_ratio=ratio(sum(predicted), len(pairs)),
    )


def ratio(part: float, whole: float) -> float:
    """`part / whole`, and 0 of nothing."""
    return part / whole if whole else 0.0
