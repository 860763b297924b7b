"""The search over thresholds against trying every one of them."""

import numpy as np
import pytest

from adaptvis.tuning.cuts import Cuts, best_cuts, largest_sum, shortest_between


def every_threshold(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The best sum of each pair over all allowed thresholds, one question at a time."""
    total = len(confidence)
    fewest = max(20, int(np.ceil(0.05 * total)))
    best = np.full((len(points), len(points)), -np.inf)
    for threshold in np.unique(confidence):
        below = confidence < threshold
        if min(below.sum(), total - below.sum()) < fewest:
            continue
        for low in range(len(points)):
            for high in range(len(points)):
                score = sum(points[low, q] if below[q] else points[high, q] for q in range(total))
                best[low, high] = max(best[low, high], score)
    return best


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_every_distinct_threshold_is_compared(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    # Rounded confidences tie, and a threshold cannot cut between equal ones.
    confidence = np.round(random.random(90), decimals)
    points = random.choice([0.0, 0.3, 0.6, 0.9, 1.0], size=(3, 90))
    cuts = Cuts.of(confidence)
    found = best_cuts(points, cuts)
    np.testing.assert_allclose(found.score, every_threshold(points, confidence), atol=1e-9)
    for low, high in np.ndindex(found.cut.shape):
        below = confidence < cuts.threshold(int(found.cut[low, high]))
        score = points[low, below].sum() + points[high, ~below].sum()
        assert score == pytest.approx(found.score[low, high])
    assert largest_sum(points, cuts) == pytest.approx(
        max(found.score.max(), points.sum(axis=1).max())
    )


def test_of_equally_good_thresholds_the_middle_one_is_taken() -> None:
    # Low is right on questions 0-39, high from 60 on; the 20 between are wrong in any case.
    points = np.zeros((2, 100))
    points[0, :40] = points[1, 60:] = 1
    confidence = np.linspace(0.01, 1.0, 100)
    cuts = Cuts.of(confidence)
    found = best_cuts(points, cuts)
    assert found.score[0, 1] == 80
    assert cuts.below[found.cut[0, 1]] == 50
    assert cuts.threshold(int(found.cut[0, 1])) == 0.505


@pytest.mark.parametrize(
    ("low", "high", "value"),
    [
        (0.3, 0.5, 0.4),
        (0.3, 0.4, 0.35),
        (0.31, 0.34, 0.33),
        (0.9999, 0.99995, 0.99992),
        (0.25, 0.75, 0.5),
    ],
)
def test_thresholds_are_short_decimals(low: float, high: float, value: float) -> None:
    assert shortest_between(low, high) == value
    assert low < value < high


def test_neighbouring_floats_are_still_cut() -> None:
    low = 0.1234567
    high = float(np.nextafter(low, 1))
    assert low < shortest_between(low, high) <= high


def test_too_few_questions_have_no_threshold() -> None:
    assert len(Cuts.of(np.linspace(0, 1, 39)).below) == 0
    assert len(Cuts.of(np.linspace(0, 1, 40)).below) == 1
    assert len(Cuts.of(np.full(100, 0.9)).below) == 0
