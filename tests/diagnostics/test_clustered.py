"""Means and AUROC against values worked out by hand and by counting pairs."""

import math

import numpy as np
import pytest

from adaptvis.diagnostics.clustered import area_under_curve, clustered_mean, separation
from adaptvis.evaluation.statistics import Z_95, clustered_standard_error


def test_two_images_by_hand() -> None:
    """Images a (1, 2) and b (6): mean 3, residual sums -3 and 3, sqrt(2 * (9 + 9)) / 3 = 2."""
    found = clustered_mean([1.0, 2.0, 6.0], ["a", "a", "b"])
    assert float(found.value) == pytest.approx(3)
    assert float(found.half) == pytest.approx(2 * Z_95)
    estimate = found.estimate()
    assert estimate["low"] == pytest.approx(3 - 2 * Z_95)


def test_the_error_is_that_of_paired_gains() -> None:
    generator = np.random.default_rng(0)
    values, clusters = generator.random((40, 2, 3)), generator.integers(0, 9, 40)
    found = clustered_mean(values, clusters)
    for index in np.ndindex(2, 3):
        wanted = clustered_standard_error(values[:, *index], np.zeros(40), clusters)
        assert found.half[index] == pytest.approx(Z_95 * wanted)


def test_what_is_not_known_is_left_out() -> None:
    found = clustered_mean([[1.0, math.nan], [math.nan, math.nan], [3.0, math.nan]], [0, 1, 2])
    assert found.value[0] == pytest.approx(2)
    assert found.half[0] == pytest.approx(Z_95 * math.sqrt(2 * 2) / 2)
    assert found.estimate(1) == {"value": None, "low": None, "high": None}
    assert clustered_mean([1.0, 2.0], ["a", "a"]).estimate()["low"] is None


def test_auroc_counts_pairs() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 6, 30).astype(float)
    positive = generator.random(30) < 0.4
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[positive]
        for n in scores[~positive]
    ]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))
    assert area_under_curve(np.array([1.0, 2.0]), np.array([False, True])) == 1
    assert math.isnan(area_under_curve(scores, np.ones(30, dtype=bool)))


def test_the_interval_of_an_auroc() -> None:
    generator = np.random.default_rng(2)
    right = generator.random(200) < 0.5
    clusters = np.arange(200) // 2
    told = separation(generator.normal(size=200) + 2 * right, right, clusters)
    assert told.low > 0.8
    assert told.value is not None
    assert told.high <= 1
    chance = separation(generator.normal(size=200), right, clusters)
    assert chance.low < 0.5 < chance.high
    unknown = separation(np.ones(4), np.ones(4, dtype=bool), np.arange(4))
    assert (unknown.value, unknown.low, unknown.high) == (None, 0.0, 1.0)
    # One wrong answer: without its image there is no AUROC, so nothing bounds it.
    single = separation(np.arange(9.0), np.arange(9) > 0, np.arange(9))
    assert (single.value, single.low, single.high) == (1.0, 0.0, 1.0)
