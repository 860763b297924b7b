"""An alpha is chosen as carefully as a coefficient of attention, beside random directions."""

import json

import numpy as np
import pytest
import torch

from adaptvis import Amplify
from adaptvis.engine import Answer
from adaptvis.errors import ConfigError, DataError
from adaptvis.presets import find_config, load_model_presets
from adaptvis.steering.directions import write_directions
from adaptvis.tasks import Sample, Task
from adaptvis.tuning.amplification import AmplificationPlan, tune_amplification
from adaptvis.tuning.ladder import Ladder


class Engine:
    """Amplifying the probe's own directions by 4 or more answers more questions rightly."""

    name = "made"

    def __init__(self, share_at_four=0.9, random_helps=False):
        self.share, self.random_helps, self.calls = share_at_four, random_helps, 0

    def describe(self):
        return {"engine": "made", "model": "made", "device": "cpu"}

    def answer(self, queries, configs, *, max_new_tokens=16):
        self.calls += 1
        return [[self._one(query, config) for query in queries] for config in configs]

    def _one(self, query, config):
        number = int(query.prompt)
        share = 0.5
        if config is not None and config.alpha >= 4:
            random = "random" in config.directions
            share = self.share if not random or self.random_helps else 0.3
        text = "yes" if (number * 37) % 100 < 100 * share else "no"
        return Answer(text, (1,), 0.5, 1.0, True)


def task(count=100):
    def load(part):
        return [
            Sample(f"{part}-{n}", str(n), lambda: (), ("yes",), "all", f"{part} image {n}")
            for n in range(count)
        ]

    return Task("made", "made", load)


@pytest.fixture
def directions(tmp_path):
    return write_directions(tmp_path / "own.safetensors", {"horizontal": torch.ones(4)}, {})


def plan(directions, **options):
    options = {"alphas": (2.0, 4.0, 8.0), "controls": 1, **options}
    return AmplificationPlan("made", "made/made", task(), directions, **options)


def test_a_reliable_gain_is_kept_stored_and_measured_beside_its_control(directions, tmp_path):
    engine, seen = Engine(), []
    folder = tmp_path / "tuned"
    tuned = tune_amplification(
        plan(directions), lambda: engine, folder, progress=lambda *at: seen.append(at)
    )
    # 4 and 8 are equally good: the smaller one.
    assert tuned.chosen == Amplify(directions=directions, alpha=4.0)
    assert tuned.gain.mean == pytest.approx(0.4)
    # Random directions only lose, so their choice is 0 in every fold.
    assert [gain.mean for gain in tuned.control_gains] == [0.0]
    assert tuned.over_controls.mean == pytest.approx(0.4)
    assert [(line.method, line.accuracy) for line in tuned.held_out] == [
        ("baseline", 0.5),
        ("amplify", 0.9),
        ("random", 0.3),
    ]
    assert not tuned.warnings
    assert seen[-1] == ("test part", 100, 100)
    assert load_model_presets(folder) == {"amplify": tuned.chosen}
    assert find_config(str(folder / "amplify.yaml")) == tuned.chosen
    found = json.loads((folder / "adaptvis.json").read_text())["found"]["amplify"]
    assert found["validation_accuracy"]["random 0"] == pytest.approx([0.5, 0.5, 0.3, 0.3])
    assert found["kept"] is True


def test_without_a_reliable_gain_nothing_is_kept_and_a_warning_says_so(directions, tmp_path):
    tuned = tune_amplification(plan(directions), lambda: Engine(0.5), tmp_path / "tuned")
    assert tuned.chosen is None
    assert not tuned.held_out
    assert "amplification is not kept" in tuned.warnings[0]
    assert load_model_presets(tmp_path / "tuned") == {}
    always = plan(directions, always_steer=True, test=False)
    tuned = tune_amplification(always, lambda: Engine(0.5), tmp_path / "always")
    assert tuned.chosen == Amplify(directions=directions, alpha=2.0)


def test_a_gain_that_random_directions_share_is_named(directions, tmp_path):
    engine = Engine(random_helps=True)
    tuned = tune_amplification(plan(directions), lambda: engine, tmp_path / "tuned")
    assert tuned.chosen is not None
    assert tuned.control_gains[0].mean == pytest.approx(0.4)
    assert "not reliably better than random directions" in tuned.warnings[0]


def test_a_finished_validation_is_read_back_without_asking(directions, tmp_path):
    engine = Engine()
    first = tune_amplification(plan(directions, test=False), lambda: engine, tmp_path / "tuned")
    calls = engine.calls
    again = tune_amplification(
        plan(directions, test=False), lambda: engine, tmp_path / "tuned", resume=True
    )
    assert engine.calls == calls
    assert again.chosen == first.chosen


def test_the_smallest_alpha_within_one_standard_error():
    # 400 questions, each its own picture. Alpha 2 gains 20 of them and loses 2; alpha 1 gains 16.
    points = np.zeros((3, 400))
    points[0, 100:300] = 1
    points[1] = points[0]
    points[1, :16] = 1
    points[2] = points[0]
    points[2, :20] = 1
    points[2, 100:102] = 0
    ladder = Ladder("own", (0, 1, 2), points, tuple(map(str, range(400))))
    # Against alpha 2 (mean .545), alpha 1 (.54) loses 4 - 2 = 2 of 400: .005; the error of that
    # difference is sqrt(6) / 400 = .0061.
    assert ladder.choose(np.arange(400)) == 1
    assert ladder.choose(np.arange(16, 400)) == 0


def test_what_cannot_be_tuned_is_refused(directions, tmp_path):
    with pytest.raises(ConfigError, match="at least one alpha above 0 and one control"):
        plan(directions, alphas=())
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        tune_amplification(plan(directions, alphas=(0.0,)), Engine, tmp_path / "a")
    few = AmplificationPlan("m", "org/m", task(5), directions, alphas=(2.0,), controls=1)
    with pytest.raises(DataError, match="needs at least 10 images, got 5"):
        tune_amplification(few, lambda: pytest.fail("the model was loaded"), tmp_path / "b")
