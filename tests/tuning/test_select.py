"""Selection on sweeps whose optimum is known by construction."""

import math
from pathlib import Path

import numpy as np
import pytest
from tuning.known import CONFIDENCE, QUESTIONS, Chance, sweep_of

from adaptvis.config import ScalingVis
from adaptvis.errors import ConfigError, DataError
from adaptvis.tuning import Grid, Sweep, select
from adaptvis.tuning.objective import Accuracy
from adaptvis.tuning.plots import plot_search


def constant(value: float) -> np.ndarray:
    return np.full(QUESTIONS, value)


def peak_at(alpha: float, layers: tuple[int, ...] | None) -> Chance:
    def chance(a: float, s: tuple[int, ...] | None, _: np.ndarray) -> np.ndarray:
        if a == 1:
            return constant(0.6)
        return constant(0.85 - 0.5 * abs(math.log(a / alpha)) - (0 if s == layers else 0.1))

    return chance


@pytest.mark.parametrize(("alpha", "layers"), [(1.5, None), (1.35, (1, 2, 3)), (0.8, (1, 2, 3))])
def test_the_known_optimum_is_found(alpha: float, layers: tuple[int, ...] | None) -> None:
    chosen = select(sweep_of(Grid(layers=(None, (1, 2, 3))), peak_at(alpha, layers)))
    assert chosen.scaling == ScalingVis(alpha=alpha, layers=layers)
    assert chosen.scaling_gain.verdict == "reliable gain"
    # no dependence on confidence, so no AdaptVis
    assert not chosen.adaptive
    assert chosen.adaptvis.alpha_low == chosen.adaptvis.alpha_high == alpha
    assert chosen.adaptvis.layers == layers
    assert chosen.adaptvis_value == chosen.scaling_value


@pytest.mark.parametrize(("low", "high"), [(0.5, 1.5), (2.0, 0.8)])
def test_a_real_dependence_on_confidence_is_found(low: float, high: float) -> None:
    def chance(a: float, s: tuple[int, ...] | None, confidence: np.ndarray) -> np.ndarray:
        best = np.where(confidence < 0.6, low, high)
        return 0.9 - 0.4 * np.abs(np.log(a / best))

    chosen = select(sweep_of(Grid(), chance))
    assert chosen.adaptive
    assert (chosen.adaptvis.alpha_low, chosen.adaptvis.alpha_high) == (low, high)
    assert chosen.adaptvis.threshold == pytest.approx(0.6, abs=0.06)
    assert chosen.adaptvis_gain.verdict == "reliable gain"


def test_noise_alone_is_hardly_ever_believed() -> None:
    # Every setting is independently right 70 % of the time: the best of the thousands of
    # candidates looks several points better than the baseline, and must not be believed. A 95 %
    # interval is still wrong once in a while.
    steered, adaptive = 0, 0
    for seed in range(8):
        luck = np.random.default_rng(seed)
        grid = Grid(layers=(None, (1, 2)))
        correct = (luck.random((2, len(grid.alphas), QUESTIONS)) < 0.7).astype(float)
        correct[1, grid.neutral] = correct[0, grid.neutral]
        images = tuple(f"i{i // 3}" for i in range(QUESTIONS))
        chosen = select(Sweep(grid, correct, CONFIDENCE, images))
        assert chosen.steers or chosen.scaling == ScalingVis(alpha=1.0)
        steered += chosen.steers
        adaptive += chosen.adaptive
    assert steered <= 1
    assert adaptive <= 1


def test_a_tie_goes_to_the_setting_closest_to_none() -> None:
    equal = sweep_of(Grid(layers=(None, (1, 2))), lambda a, s, c: constant(0.7))
    chosen = select(equal)
    assert chosen.scaling == ScalingVis(alpha=1.0)
    assert (chosen.adaptvis.alpha_low, chosen.adaptvis.alpha_high) == (1.0, 1.0)
    steered = select(equal, always_steer=True)
    assert steered.scaling.layers is None
    assert abs(math.log(steered.scaling.alpha)) == pytest.approx(math.log(1.1), abs=0.011)
    assert steered.adaptvis.alpha_low != steered.adaptvis.alpha_high


def test_the_reported_accuracies_are_those_of_the_settings() -> None:
    sweep = sweep_of(Grid(), peak_at(1.35, None))
    chosen = select(sweep)
    alphas = sweep.grid.alphas
    assert chosen.baseline == sweep.points[0, alphas.index(1.0)].mean()
    assert chosen.scaling_value == sweep.points[0, alphas.index(chosen.scaling.alpha)].mean()
    assert chosen.questions == QUESTIONS


def test_a_threshold_needs_questions_on_both_sides() -> None:
    sweep = sweep_of(Grid(), peak_at(1.5, None))
    usual = select(sweep)
    flat = Sweep(sweep.grid, sweep.points, np.full(QUESTIONS, 0.9), sweep.images)
    for always in (False, True):
        chosen = select(flat, always_steer=always)
        assert chosen.scaling == usual.scaling == ScalingVis(alpha=1.5)
        assert chosen.scaling_gain == usual.scaling_gain
        assert chosen.steers
        assert not chosen.adaptive
        assert (chosen.adaptvis.alpha_low, chosen.adaptvis.alpha_high) == (1.5, 1.5)
        assert chosen.chosen is chosen.adaptvis_gain is None
        # By hand: a fifth of 900 is left out, and 5 % of 720 are 36.
        assert "720 questions give no threshold, which needs 36" in chosen.no_threshold
    assert usual.no_threshold == ""
    # Ten images of three questions: none of the 24 or 30 splits into 20 and 20.
    thirty = Sweep(sweep.grid, sweep.points[..., :30], CONFIDENCE[:30], sweep.images[:30])
    assert "24 questions give no threshold, which needs 20" in select(thirty).no_threshold
    few = Sweep(sweep.grid, sweep.points[..., :15], CONFIDENCE[:15], sweep.images[:15])
    with pytest.raises(DataError, match="at least 10 images, got 5"):
        select(few)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("confidence", [0.3, 0.99, 1.0])
def test_equal_confidences_can_be_plotted(tmp_path: Path, confidence: float) -> None:
    sweep = sweep_of(Grid(alphas=(1.0, 1.5)), peak_at(1.5, None))
    flat = Sweep(sweep.grid, sweep.points, np.full(QUESTIONS, confidence), sweep.images)
    plot_search(flat, select(flat), Accuracy(flat), tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "values",
    [
        {"alphas": (1.0,)},
        {"alphas": (0.0, 1.0)},
        {"alphas": (math.nan,)},
        {"alphas": (-1.0,)},
        {"layers": ()},
        {"layers": (None, None)},
        {"layers": ((-1,),)},
        {"rows": "first"},
    ],
)
def test_grids_that_make_no_sense(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Grid(**values)  # type: ignore[arg-type]


def test_half_right_answers_count_half() -> None:
    # Unsteered every question scores 0.3, under alpha 2 a third of them 0.9 and the rest 0.3.
    grid = Grid(alphas=(1.0, 2.0))
    points = np.full((1, 2, QUESTIONS), 0.3)
    points[0, 1, ::3] = 0.9
    chosen = select(Sweep(grid, points, CONFIDENCE, tuple(map(str, range(QUESTIONS)))))
    assert chosen.scaling.alpha == 2
    assert chosen.baseline == pytest.approx(0.3)
    assert chosen.scaling_value == pytest.approx(0.5)
    assert chosen.scaling_gain.mean == pytest.approx(0.2)


def test_ten_thousand_questions_and_ten_selections_of_layers_take_seconds() -> None:
    import time

    luck = np.random.default_rng(1)
    grid = Grid(layers=(None, *((i, i + 1) for i in range(9))))
    points = (luck.random((10, 12, 10_000)) < 0.7).astype(float)
    points[:, grid.neutral] = points[0, grid.neutral]
    sweep = Sweep(grid, points, luck.random(10_000), tuple(f"i{i // 3}" for i in range(10_000)))
    start = time.perf_counter()
    chosen = select(sweep)
    # One second on one idle core; every one of these settings was compared.
    assert time.perf_counter() - start < 20
    assert chosen.exact
    assert chosen.compared == 10 * 12 * 11 * 9001 + 10 * 11 + 1
