"""Statistics against closed forms and sums done by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest

from adaptvis.evaluation.statistics import (
    Z_95,
    clustered_interval,
    clustered_standard_error,
    mcnemar,
    paired_gain,
    points_interval,
    wilson_interval,
)


def test_wilson_solves_its_defining_equation() -> None:
    # The ends are the p with |p_hat - p| = z * sqrt(p (1 - p) / n).
    for successes, trials in [(1, 7), (50, 100), (2910, 3000), (3, 4)]:
        for end in wilson_interval(successes, trials):
            deviation = abs(successes / trials - end)
            assert deviation == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / trials), rel=1e-9)


def test_wilson_at_the_ends() -> None:
    # z^2 / (n + z^2) is the closed form where nothing, or everything, is right.
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(Z_95**2 / (10 + Z_95**2))
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(10 / (10 + Z_95**2))
    assert high == 1
    assert wilson_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        wilson_interval(4, 3)


def test_wilson_covers_about_95_percent() -> None:
    draws = np.random.default_rng(0).binomial(200, 0.9, size=4000).tolist()
    table = {k: wilson_interval(k, 200) for k in set(draws)}
    covered = np.mean([table[k][0] <= 0.9 <= table[k][1] for k in draws])
    assert 0.93 < covered < 0.97


def test_clustered_standard_error_by_hand() -> None:
    # Differences by image: a: +1, 0; b: -1; c: +1, +1, 0. So n = 6 and the mean is 1/3.
    # Residual sums: a: 1 - 2/3 = 1/3; b: -1 - 1/3 = -4/3; c: 2 - 1 = 1; squares sum to 26/9.
    treated = [1, 0, 0, 1, 1, 0]
    reference = [0, 0, 1, 0, 0, 0]
    error = clustered_standard_error(treated, reference, list("aabccc"))
    assert error == pytest.approx(math.sqrt(3 / 2 * 26 / 9) / 6)


def test_without_clustering_it_is_the_usual_standard_error() -> None:
    rng = np.random.default_rng(1)
    treated, reference = rng.random(400) < 0.7, rng.random(400) < 0.6
    difference = treated.astype(float) - reference
    expected = difference.std(ddof=1) / math.sqrt(400)
    ids = [str(i) for i in range(400)]
    assert clustered_standard_error(treated, reference, ids) == pytest.approx(expected)


def test_copies_of_a_question_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(2)
    treated, reference = rng.random(300) < 0.7, rng.random(300) < 0.6
    ids = np.arange(300)
    once = paired_gain(treated, reference, ids)
    copied = paired_gain(np.repeat(treated, 5), np.repeat(reference, 5), np.repeat(ids, 5))
    assert copied.mean == pytest.approx(once.mean)
    assert copied.standard_error == pytest.approx(once.standard_error)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-9)
    pretended = paired_gain(np.repeat(treated, 5), np.repeat(reference, 5), np.arange(1500))
    assert pretended.high - pretended.low < 0.6 * (once.high - once.low)


def test_the_bootstrap_agrees_with_the_closed_form_and_is_seeded() -> None:
    rng = np.random.default_rng(3)
    images = np.repeat(np.arange(400), rng.integers(1, 7, size=400))
    shared = rng.normal(size=400)[images]
    treated = shared + rng.normal(size=len(images)) > -0.6
    reference = shared + rng.normal(size=len(images)) > 0
    gain = paired_gain(treated, reference, images, resamples=8000)
    assert (gain.high - gain.low) / (2 * Z_95) == pytest.approx(gain.standard_error, rel=0.05)
    assert gain.verdict == "reliable gain"
    assert gain == paired_gain(treated, reference, images, resamples=8000)
    assert gain != paired_gain(treated, reference, images, resamples=8000, seed=1)
    loss = paired_gain(reference, treated, images, resamples=8000)
    assert loss.verdict == "reliable loss"
    assert loss.mean == -gain.mean


def test_verdicts_without_evidence() -> None:
    same = paired_gain([True] * 40, [True] * 40, np.arange(40))
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert same.verdict == "no reliable effect"
    # Everything right on one image says nothing about other images.
    one = paired_gain([True] * 40, [False] * 40, ["a"] * 40)
    assert (one.low, one.high, one.standard_error) == (-1, 1, math.inf)
    few = paired_gain([True] * 40, [False] * 40, np.arange(40) % 4)
    assert one.verdict == few.verdict == "too few images to tell"


@pytest.mark.parametrize("lengths", [(1, 2, 1), (0, 0, 0), (2, 2, 1)])
def test_lengths_must_match(lengths: tuple[int, int, int]) -> None:
    a, b, c = lengths
    with pytest.raises(ValueError, match="one entry per question"):
        paired_gain([True] * a, [True] * b, ["x"] * c)


def test_mcnemar_by_hand() -> None:
    # 8 gained, 2 lost: 2 * (1 + 10 + 45) / 2^10.
    test = mcnemar([True] * 8 + [False] * 2 + [True] * 5, [False] * 8 + [True] * 2 + [True] * 5)
    assert (test.gained, test.lost) == (8, 2)
    assert test.p_value == pytest.approx(112 / 1024)
    # 5 gained, none lost: 2 / 2^5. As many gained as lost, or no change: no evidence at all.
    assert mcnemar([True] * 5, [False] * 5).p_value == pytest.approx(1 / 16)
    assert mcnemar([True, False] * 3, [False, True] * 3).p_value == 1
    assert mcnemar([True] * 9, [True] * 9).p_value == 1
    with pytest.raises(ValueError, match="one entry per question"):
        mcnemar([True], [])


@pytest.mark.parametrize(("gained", "lost"), [(30, 12), (150, 201), (1000, 900), (7, 4000)])
def test_mcnemar_equals_the_sum_of_whole_binomials(gained: int, lost: int) -> None:
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    expected = 2 * Fraction(tail, 2**n)
    test = mcnemar([True] * gained + [False] * lost, [False] * gained + [True] * lost)
    assert test.p_value == pytest.approx(float(expected), rel=1e-9)


def test_mcnemar_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for gained, lost in [(3, 9), (120, 87), (0, 1), (9000, 8700)]:
        test = mcnemar([True] * gained + [False] * lost, [False] * gained + [True] * lost)
        expected = stats.binomtest(gained, gained + lost, 0.5).pvalue
        assert test.p_value == pytest.approx(expected, rel=1e-9)


def test_the_clustered_interval_of_points() -> None:
    rng = np.random.default_rng(4)
    images = np.repeat(np.arange(500), 2)
    points = np.clip(np.repeat(rng.random(500), 2) + rng.normal(0, 0.05, 1000), 0, 1)
    low, high = clustered_interval(points, images, resamples=8000)
    # The mean's standard error against a reference that is always 0 is that of the points.
    error = clustered_standard_error(points, np.zeros(1000), images)
    assert (low + high) / 2 == pytest.approx(points.mean(), abs=0.002)
    assert (high - low) / (2 * Z_95) == pytest.approx(error, rel=0.05)
    assert clustered_interval([0.5, 0.5], ["a", "a"]) == (0, 1)
    with pytest.raises(ValueError, match="one entry per question"):
        clustered_interval([0.5], ["a", "b"])


def test_gains_of_fractions() -> None:
    gain = paired_gain([1.0, 0.3, 0.6], [0.0, 0.3, 0.9], ["a", "b", "c"])
    assert gain.mean == pytest.approx(0.7 / 3)


def test_wilson_only_where_every_question_has_its_own_image() -> None:
    points = [1.0, 0.0] * 60
    alone = points_interval(points, [f"i{i}" for i in range(120)])
    assert alone == (*wilson_interval(60, 120), "wilson")
    # Six questions an image, all right or all wrong: as good as 100 questions.
    shared = points_interval([float(i // 6 % 2) for i in range(600)], np.arange(600) // 6)
    assert shared[2] == "bootstrap"
    half = Z_95 * math.sqrt(0.25 / 100)
    assert shared[:2] == pytest.approx((0.5 - half, 0.5 + half), abs=0.02)
    assert points_interval([0.5, 0.3], ["a", "b"])[2] == "bootstrap"


def test_the_interval_covers_where_questions_share_a_picture() -> None:
    """Pictures of every difficulty with six questions each; the accuracy to be found is one half.

    Wilson's interval holds it in about three of four such samples.
    """
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(200), 6)
    hits = 0
    for _ in range(200):
        right = random.random((200, 6)) < random.random((200, 1))
        low, high, _ = points_interval(right.ravel().astype(float), images)
        hits += low <= 0.5 <= high
    # 95 % of 200 is 190; one standard deviation is 3.
    assert 180 <= hits <= 199


@pytest.mark.parametrize("point", [0, 1])
def test_the_same_answer_everywhere_is_no_certainty(point: int) -> None:
    low, high, _ = points_interval([point] * 40, np.arange(40) // 2)
    assert (low, high) == wilson_interval(20 * point, 20)
    assert high - low > 0.1
