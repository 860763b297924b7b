"""Warnings: said where they apply, and only there."""

import numpy as np
import pytest
from tuning.known import QUESTIONS, sweep_of

from adaptvis.evaluation.statistics import paired_gain
from adaptvis.tuning import Grid, Sweep, select
from adaptvis.tuning.advice import advice
from adaptvis.tuning.luck import Luck, luck_of

NO_LUCK = Luck(0.0, 0)


def noise(questions: int, grid: Grid, changed: float, seed: int = 0) -> Sweep:
    """Every setting changes that share of the answers, for better or worse alike."""
    random = np.random.default_rng(seed)
    base = random.random(questions) < 0.5
    flips = random.random((*grid.shape, questions)) < changed
    points = (base ^ flips).astype(float)
    points[:, grid.neutral] = base
    return Sweep(grid, points, random.random(questions), tuple(map(str, range(questions))))


def test_luck_is_what_the_best_of_a_useless_grid_looks_better() -> None:
    grid = Grid(layers=(None, (1, 2)))
    estimates, real = [], []
    for seed in range(6):
        sweep = noise(400, grid, 0.2, seed)
        estimates.append(luck_of(sweep, seed=seed).points)
        chosen_best = max(
            _best(sweep.points[s], sweep.confidence) for s in range(len(sweep.points))
        )
        real.append(chosen_best - sweep.points[0, grid.neutral].mean())
    # Nothing helps here, so the best setting's whole gain is luck.
    assert np.mean(estimates) == pytest.approx(np.mean(real), abs=0.01)
    assert min(real) > 0.04


def _best(points: np.ndarray, confidence: np.ndarray) -> float:
    from adaptvis.tuning.cuts import Cuts, best_cuts

    return float(best_cuts(points, Cuts.of(confidence)).score.max()) / len(confidence)


def test_luck_shrinks_with_questions_and_grows_with_the_grid() -> None:
    small, large = Grid(alphas=(1.0, 1.5)), Grid(layers=(None, (1,), (2,)))
    few, many = luck_of(noise(300, large, 0.2)), luck_of(noise(4800, large, 0.2))
    assert few.points / many.points == pytest.approx(4, rel=0.15)
    # The estimate from few questions is about where many arrive.
    assert few.questions == pytest.approx(4800 * (many.points / 0.02) ** 2, rel=0.3)
    assert luck_of(noise(300, small, 0.2)).points < few.points
    # Steering that changes no answer cannot look better.
    assert luck_of(noise(300, large, 0.0)) == Luck(0.0, 0)


def test_no_effect_is_said_plainly() -> None:
    sweep = noise(2400, Grid(alphas=(0.8, 1.0, 1.25)), 0.02)
    found = advice(sweep, select(sweep), NO_LUCK)
    assert found == [
        "ScalingVis has no significant gain over no steering in cross-validation: alpha 1 (no "
        "steering) was chosen",
        "AdaptVis has no significant gain over no steering in cross-validation: both of its "
        "coefficients were set to ScalingVis's",
    ]
    kept = advice(sweep, select(sweep, always_steer=True), NO_LUCK)
    assert "it was kept because you asked for it" in kept[0]


def test_a_gain_that_the_test_part_does_not_show() -> None:
    sweep = sweep_of(Grid(), lambda a, s, c: np.full(QUESTIONS, 0.6 + 0.2 * (a == 1.5)))
    selection = select(sweep)
    assert selection.steers
    nothing = paired_gain([1, 0] * 30, [0, 1] * 30, list(map(str, range(60))))
    found = advice(sweep, selection, NO_LUCK, [("scalingvis", nothing)])
    assert "the gain of scalingvis over the baseline on the test part is not significant" in found


@pytest.mark.parametrize(
    ("luck", "said"),
    [
        (Luck(0.051, 6500), ["luck alone would make the best of them look 5.1 points better"]),
        (Luck(0.01, 200), []),
    ],
)
def test_few_questions(luck: Luck, said: list[str]) -> None:
    sweep = sweep_of(Grid(), lambda a, s, c: np.full(QUESTIONS, 0.6 + 0.2 * (a == 1.5)))
    text = " ".join(advice(sweep, select(sweep), luck))
    assert f"{QUESTIONS} validation questions are few for a threshold: 2000 or more" in text
    assert all(words in text for words in said)
    assert ("luck" in text) == bool(said)


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (0.5, "alpha = 0.5 is the smallest coefficient of the grid; add smaller ones"),
        (3.0, "alpha = 3 is the largest coefficient of the grid; add larger ones"),
        (1.5, ""),
    ],
)
def test_an_optimum_at_the_edge_of_the_grid(best: float, words: str) -> None:
    def chance(alpha: float, layers: object, confidence: np.ndarray) -> np.ndarray:
        return np.full(QUESTIONS, 0.9 - 0.4 * abs(np.log(alpha / best)))

    sweep = sweep_of(Grid(), chance)
    text = " ".join(advice(sweep, select(sweep), NO_LUCK))
    assert words in text
    assert bool(words) == ("of the grid" in text)


def test_a_threshold_at_the_edge() -> None:
    # Only the 45 least confident questions gain from steering, and the rest loses.
    def chance(alpha: float, layers: object, confidence: np.ndarray) -> np.ndarray:
        unsure = confidence < 0.3 + 0.05 * 0.699
        return np.where(unsure, 0.05 if alpha == 1 else 0.95, 0.9 if alpha == 1 else 0.1)

    sweep = sweep_of(Grid(alphas=(1.0, 1.5)), chance)
    selection = select(sweep)
    assert selection.adaptive
    assert any("edge of what was searched" in line for line in advice(sweep, selection, NO_LUCK))


def test_nothing_is_said_where_all_is_well() -> None:
    random = np.random.default_rng(0)
    grid, questions = Grid(alphas=(0.8, 1.0, 1.25, 1.5)), 3000
    confidence = random.random(questions)
    luck = random.random(questions)
    best = np.where(confidence < 0.5, 0.8, 1.25)
    points = np.stack([[luck < np.where(a == best, 0.9, 0.5) for a in grid.alphas]]).astype(float)
    points[0, 0] = np.where(confidence < 0.5, luck < 0.9, luck < 0.4)
    extended = Grid(alphas=(0.5, 0.8, 1.0, 1.25, 1.5))
    worst = (luck < 0.3).astype(float)[None, None]
    sweep = Sweep(
        extended,
        np.concatenate([worst, points], axis=1),
        confidence,
        tuple(map(str, range(questions))),
    )
    selection = select(sweep)
    assert (selection.adaptvis.alpha_low, selection.adaptvis.alpha_high) == (0.8, 1.25)
    # ScalingVis alone cannot gain much here, and may say so.
    assert [w for w in advice(sweep, selection, NO_LUCK) if "ScalingVis has no" not in w] == []
