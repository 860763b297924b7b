"""Reliability bins and the expected calibration error, by hand."""

import pytest

from adaptvis.evaluation.calibration import calibrate
from adaptvis.evaluation.statistics import wilson_interval


def test_bins_and_error_by_hand() -> None:
    # [0.2, 0.3): 0.20 wrong, 0.28 right. [0.9, 1.0]: 0.90 right, 0.95 right, 1.00 wrong.
    found = calibrate([0.2, 0.28, 0.9, 0.95, 1.0], [0, 1, 1, 1, 0], list("abcde"))
    assert found is not None
    low, high = found.bins
    assert (low.start, low.end, low.questions) == (0.2, 0.3, 2)
    assert (high.start, high.end, high.questions) == (0.9, 1.0, 3)
    assert low.mean_confidence == pytest.approx(0.24)
    assert high.accuracy == pytest.approx(2 / 3)
    assert (high.low, high.high) == wilson_interval(2, 3)
    expected = 2 / 5 * abs(0.5 - 0.24) + 3 / 5 * abs(2 / 3 - 0.95)
    assert found.expected_error == pytest.approx(expected)


def test_points_may_be_fractions() -> None:
    found = calibrate([0.5] * 4, [0.3, 0.6, 0.9, 0.6], list("abcd"))
    assert found is not None
    assert found.expected_error == pytest.approx(0.1)
    assert 0.3 <= found.bins[0].low < 0.6 < found.bins[0].high <= 0.9


def test_nothing_to_calibrate() -> None:
    assert calibrate([], [], []) is None
    with pytest.raises(ValueError, match="one entry per question"):
        calibrate([0.5], [1, 0], ["a"])
