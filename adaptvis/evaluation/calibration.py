"""How far the model's confidence tells right answers from wrong ones."""

from collections.abc import Sequence

import numpy as np

from adaptvis.evaluation.results import Calibration, CalibrationBin
from adaptvis.evaluation.statistics import points_interval

__all__ = ["BINS", "calibrate"]

BINS = 10


def calibrate(
    confidences: Sequence[float],
    points: Sequence[float],
    clusters: Sequence[str],
    *,
    model: str = "",
    task: str = "",
    method: str = "",
    bins: int = BINS,
    seed: int = 0,
) -> Calibration | None:
    """Reliability bins of equal width and the expected calibration error; None without questions.

    Args:
        confidences: in [0, 1]. points: what the answer earned, in [0, 1]. clusters: its image.
    """
    if not len(confidences) == len(points) == len(clusters):
        raise ValueError(
            "confidences, points and clusters need one entry per question, got "
            f"{len(confidences)}, {len(points)} and {len(clusters)}"
        )
    if not confidences:
        return None
    confidence, earned = np.asarray(confidences, dtype=float), np.asarray(points, dtype=float)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        members = np.flatnonzero(index == number).tolist()
        if not members:
            continue
        low, high, _ = points_interval(earned[members], [clusters[i] for i in members], seed=seed)
        found.append(
            CalibrationBin(
                start=number / bins,
                end=(number + 1) / bins,
                questions=len(members),
                mean_confidence=float(confidence[members].mean()),
                accuracy=float(earned[members].mean()),
                low=low,
                high=high,
            )
        )
    error = sum(b.questions * abs(b.accuracy - b.mean_confidence) for b in found) / len(points)
    return Calibration(model, task, method, len(points), error, tuple(found))
