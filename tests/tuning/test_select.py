"""Selection on sweeps whose optimum is known by construction."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptvis.config import AdaptVis, ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import ConfigError, DataError, OutputError
from adaptvis.presets import load_model_presets
from adaptvis.tasks import Sample, Task
from adaptvis.tuning import Grid, Sweep, run_sweep, select, store_presets
from adaptvis.tuning.store import check_writable, found_by

QUESTIONS = 900
CONFIDENCE = np.random.default_rng(0).permutation(np.linspace(0.3, 0.999, QUESTIONS))
Chance = Callable[[float, tuple[int, ...] | None, np.ndarray], np.ndarray]


def sweep_of(grid: Grid, chance: Chance, seed: int = 0) -> Sweep:
    """Answers are right with the given chance; three questions share an image."""
    luck = np.random.default_rng(seed).random(QUESTIONS)
    correct = np.stack(
        [
            np.stack([luck < chance(a, None if a == 1 else s, CONFIDENCE) for a in grid.alphas])
            for s in grid.layers
        ]
    )
    return Sweep(grid, correct, CONFIDENCE, tuple(f"i{i // 3}" for i in range(QUESTIONS)))


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
    assert chosen.adaptvis_accuracy == chosen.scaling_accuracy


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
        correct = luck.random((2, len(grid.alphas), QUESTIONS)) < 0.7
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
    assert chosen.baseline_accuracy == sweep.correct[0, alphas.index(1.0)].mean()
    assert chosen.scaling_accuracy == sweep.correct[0, alphas.index(chosen.scaling.alpha)].mean()
    assert chosen.questions == QUESTIONS


def test_a_threshold_needs_questions_on_both_sides() -> None:
    sweep = sweep_of(Grid(), peak_at(1.5, None))
    flat = Sweep(sweep.grid, sweep.correct, np.full(QUESTIONS, 0.9), sweep.images)
    with pytest.raises(DataError, match="too few for a threshold"):
        select(flat)
    few = Sweep(sweep.grid, sweep.correct[..., :15], CONFIDENCE[:15], sweep.images[:15])
    with pytest.raises(DataError):
        select(few)


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


class KnownEngine:
    """Right under alpha 1.5 in layers 1-2 for unsure questions; otherwise as the question says."""

    name = "known"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        self.calls.append((len(queries), len(configs)))
        return [[self._one(int(q.prompt), c) for q in queries] for c in configs]

    def _one(self, number: int, config: SteeringConfig | None) -> Answer:
        confidence = 0.4 + (number % 60) / 100
        right = number % 10 < 6
        if isinstance(config, ScalingVis):
            right = config.layers == (1, 2) and config.alpha == 1.5 and number % 10 < 9
        if isinstance(config, AdaptVis):
            raise AssertionError("AdaptVis candidates need no further model runs")
        return Answer("left" if right else "right", (1,), confidence, 1.0, config is not None)

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}


def numbered(part: str) -> list[Sample]:
    image = Image.new("RGB", (2, 2))
    offset = 0 if part == "validation" else 10_000
    return [
        Sample(
            str(i), str(i + offset), lambda: (image,), ("left",), "c", f"i{i // 2}",
            ("left", "right"),
        )
        for i in range(330)
    ]  # fmt: skip


def test_a_sweep_asks_each_batch_once_and_finds_the_engines_optimum(tmp_path: Path) -> None:
    engine = KnownEngine()
    grid = Grid(alphas=(0.8, 1.5, 2.0), layers=(None, (1, 2)))
    task = Task("numbered", "", numbered, source="here")
    done: list[tuple[int, int]] = []
    sweep = run_sweep(engine, task, grid, batch_size=100, progress=lambda *s: done.append(s))
    assert engine.calls == [(100, 7), (100, 7), (100, 7), (30, 7)]
    assert done[-1] == (330, 330)
    chosen = select(sweep)
    assert chosen.scaling == ScalingVis(alpha=1.5, layers=(1, 2))
    assert chosen.scaling_accuracy == pytest.approx(0.9)

    (tmp_path / "adaptvis.json").write_text('{"presets": {"mine": {"method": "adaptvis"}}}')
    check_writable(tmp_path)
    found = found_by(chosen, sweep, {"task": task.name, "part": "validation"})
    store_presets(tmp_path, chosen, found)
    presets = load_model_presets(tmp_path)
    assert presets == {
        "mine": AdaptVis(),
        "scalingvis": chosen.scaling,
        "adaptvis": chosen.adaptvis,
    }
    stored = json.loads((tmp_path / "adaptvis.json").read_text())["found"]["last_prompt_token"]
    assert (stored["task"], stored["part"], stored["questions"]) == ("numbered", "validation", 330)
    assert stored["grid"]["layers"] == ["all", [1, 2]]
    assert stored["validation_accuracy"]["scalingvis"] == pytest.approx(0.9)


def test_an_unwritable_model_folder_is_found_before_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(tmp_path / "nowhere")
    (tmp_path / "adaptvis.json").write_text("{}")
    with pytest.raises(ConfigError, match="mend or remove"):
        check_writable(tmp_path)
