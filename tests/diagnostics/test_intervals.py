"""Ratios against closed forms, and against a bootstrap that draws images one by one."""

import numpy as np
import pytest

from adaptvis.diagnostics.intervals import ratio_estimate
from adaptvis.diagnostics.permutation import position_sensitivity


def test_published_accuracies_give_the_published_index() -> None:
    # GQA, table 1 and the PSI of LLaVA-1.5: 61.36 to 58.62 is 4.47 %.
    estimate = position_sensitivity([0.6136], [0.5862], ["a"])
    assert 100 * estimate["value"] == pytest.approx(4.47, abs=0.005)
    assert estimate["low"] is None


def test_a_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    assert ratio_estimate([1, 2, 9], [1, 1, 4], "aab")["value"] == pytest.approx(2.0)


def test_the_interval_draws_whole_images() -> None:
    generator = np.random.default_rng(5)
    clusters = np.repeat(np.arange(30), 4)
    before = np.repeat(generator.integers(0, 2, 30), 4).astype(float)
    after = before * generator.integers(0, 2, 120)
    found = position_sensitivity(before, after, clusters, seed=3)
    drawn = []
    for _ in range(4000):
        chosen = generator.integers(0, 30, 30)
        rows = np.concatenate([np.where(clusters == c)[0] for c in chosen])
        drawn.append((before[rows] - after[rows]).sum() / before[rows].sum())
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.02)


def test_no_accuracy_to_lose_has_no_index() -> None:
    estimate = position_sensitivity([0, 0, 0], [0, 1, 0], "abc")
    assert estimate == {"value": None, "low": None, "high": None, "images": 3}
