"""Intervals of metrics that are no means, and which questions belong together."""

from collections.abc import Sequence

import numpy as np
import pytest
from tuning.known import set_accuracy

from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import jackknife_error, jackknife_gain, jackknife_interval
from adaptvis.tasks import Answered
from adaptvis.tuning.sweep import Outcome


def outcome(i: int, answer: str, gold: str, **tags: str) -> Outcome:
    right = answer == gold
    return Outcome(str(i), "c", answer, (gold,), right, right, float(right), tags)


def test_the_jackknife_of_a_mean_is_its_clustered_standard_error() -> None:
    random = np.random.default_rng(3)
    ours = [outcome(i, str(random.random() < 0.7), "True") for i in range(50)]
    theirs = [outcome(i, str(random.random() < 0.5), "True") for i in range(50)]

    def mean(answers: Sequence[Answered]) -> float:
        return sum(a.score for a in answers) / len(answers)

    gain = jackknife_gain(mean, ours, theirs, np.arange(50))
    differences = np.array([a.score - b.score for a, b in zip(ours, theirs, strict=True)])
    # One question per group: the usual standard error of a mean, and Student's t for 49 degrees.
    assert gain.mean == pytest.approx(differences.mean())
    assert gain.standard_error == pytest.approx(differences.std(ddof=1) / np.sqrt(50))
    assert gain.high - gain.mean == pytest.approx(2.0096 * gain.standard_error, rel=1e-3)
    # sqrt(2/3 * (1 + 0 + 1))
    assert jackknife_error([1.0, 2.0, 3.0]) == pytest.approx(1.1547, rel=1e-4)


def test_pairs_and_sets_stay_whole() -> None:
    answers = [outcome(i, "a", "a", set=f"s{i // 4}", kind=f"k{i % 2}") for i in range(24)]
    images = [f"i{i}" for i in range(24)]
    clusters = clusters_of(answers, images, "set")
    # Sets of four belong together; a kind does not bind them.
    assert [int(c) for c in clusters] == [i // 4 for i in range(24)]
    # Small samples, whose kinds are few too, are not lumped together.
    assert len(set(clusters_of(answers[:8], images[:8], "set").tolist())) == 2
    assert len(set(clusters_of(answers, images).tolist())) == 24
    # An image that two sets share joins them.
    images[4] = "i0"
    assert len(set(clusters_of(answers, images, "set").tolist())) == 5


def test_the_interval_of_set_accuracy() -> None:
    answers = [outcome(i, "a", "a" if i % 8 else "b", set=f"s{i // 4}") for i in range(160)]
    right = [outcome(i, "a", "a", set=f"s{i // 4}") for i in range(160)]

    def metric(of: Sequence[Answered]) -> float:
        return set_accuracy(of)["set_accuracy"]

    clusters = clusters_of(answers, [str(i) for i in range(160)], "set")
    gain = jackknife_gain(metric, right, answers, clusters)
    # Every other set has one wrong answer: 20 of 40 sets. SE = sqrt(.25 / 40) * sqrt(40 / 39).
    assert gain.mean == 0.5
    assert gain.images == 40
    assert gain.standard_error == pytest.approx(np.sqrt(0.25 / 39), rel=1e-6)


def test_the_interval_of_one_metric() -> None:
    answers = [outcome(i, "a", "a" if i % 4 else "b") for i in range(200)]
    value, low, high = jackknife_interval(
        lambda of: sum(a.score for a in of) / len(of), answers, np.arange(200)
    )
    # 75 %, standard error sqrt(.75 * .25 / 200) = 3.06 points; four questions in each group left
    # out make the estimate a little random.
    assert value == 0.75
    assert high - value == pytest.approx(2.01 * 0.0306, rel=0.35)
    assert value - low == pytest.approx(high - value)
    assert jackknife_interval(lambda of: 0.5, answers, np.zeros(200, int))[1:] == (0.0, 1.0)
