"""A whole tuning on an engine whose best setting is known."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console
from tuning.known import TASK, KnownEngine, numbered

from adaptvis.config import AdaptVis, ScalingVis, load_config
from adaptvis.errors import ConfigError, DataError, OutputError
from adaptvis.evaluation import read_records
from adaptvis.presets import load_model_presets
from adaptvis.tasks import Part, Sample, Task
from adaptvis.tuning import Grid
from adaptvis.tuning.run import TuningPlan, tune
from adaptvis.tuning.store import check_writable
from adaptvis.tuning.tables import choice_table

GRID = Grid(alphas=(0.8, 1.5, 2.0), layers=(None, (1, 2)))
BEST = ScalingVis(alpha=1.5, layers=(1, 2))


def plan(**changes: object) -> TuningPlan:
    values: dict[str, object] = {"model": "known", "source": "nowhere", "task": TASK, "grid": GRID}
    return TuningPlan(**(values | changes))  # type: ignore[arg-type]


def refuse() -> KnownEngine:
    raise AssertionError("no engine is needed")


def test_what_is_found_is_measured_on_the_test_part_and_written(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adaptvis.json").write_text(
        '{"presets": {"mine": {"method": "adaptvis"}}}'
    )
    loads = []
    tuned = tune(
        plan(),
        lambda: loads.append(1) or KnownEngine(),  # type: ignore[func-returns-value]
        tmp_path / "out",
        also_store_in=tmp_path / "model",
    )
    assert loads == [1]
    # By hand: 198 of 330 right unsteered, 297 under the engine's optimum.
    baseline, scaling, adaptvis = tuned.held_out
    assert (baseline.accuracy, scaling.accuracy) == pytest.approx((0.6, 0.9))
    assert scaling.gain is not None
    assert scaling.gain.mean == pytest.approx(0.3)
    assert scaling.gain.low > 0.2
    assert adaptvis.value == scaling.value
    records = read_records(tmp_path / "out" / "test" / "records.jsonl")
    assert len(records) == 3 * 330
    assert {r.method for r in records} == {"baseline", "scalingvis", "adaptvis"}

    out = tmp_path / "out"
    wanted = {"scalingvis": BEST, "adaptvis": tuned.selection.adaptvis}
    assert load_model_presets(out) == wanted
    assert load_model_presets(tmp_path / "model") == {"mine": AdaptVis(), **wanted}
    assert load_config(out / "scalingvis.yaml") == BEST
    assert load_config(out / "adaptvis.json", "adaptvis") == tuned.selection.adaptvis
    assert yaml.safe_load((out / "scalingvis.yaml").read_text())["alpha"] == 1.5
    found = json.loads((out / "adaptvis.json").read_text())["found"]["last_prompt_token"]
    assert (found["task"], found["part"], found["questions"]) == ("numbered", "validation", 330)
    assert found["grid"]["layers"] == ["all", [1, 2]]
    assert found["validation_accuracy"]["scalingvis"] == pytest.approx(0.9)
    assert found["test"]["scalingvis"]["gain_over_baseline"]["mean"] == pytest.approx(0.3)
    assert found["warnings"] == tuned.warnings
    assert any("330 validation questions are few" in line for line in tuned.warnings)
    with Image.open(out / "tuning.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 500


def test_a_finished_sweep_serves_another_objective_without_the_model(tmp_path: Path) -> None:
    first = tune(plan(test=False), KnownEngine, tmp_path / "out")
    second = tune(plan(test=False, objective="set_accuracy"), refuse, tmp_path / "out", resume=True)
    assert first.selection.objective == "accuracy"
    assert second.selection.objective == "set_accuracy"
    assert second.selection.scaling == BEST
    # By hand: wrong are 9, 19, 29, ... of 330 questions, 33 of them in 33 of the 83 sets.
    assert second.selection.scaling_value == pytest.approx(50 / 83)
    found = json.loads((tmp_path / "out" / "adaptvis.json").read_text())["found"]
    assert found["last_prompt_token"]["validation_set_accuracy"]["scalingvis"] > 0.6
    # The test part is asked, once, for whatever was chosen; the same choice is read back.
    tune(plan(), KnownEngine, tmp_path / "out", resume=True)
    tested = tune(plan(objective="set_accuracy"), refuse, tmp_path / "out", resume=True)
    assert tested.held_out[1].value == pytest.approx(50 / 83)
    assert tested.held_out[1].gain is not None
    assert tested.held_out[1].gain.images == 83
    # Other settings are measured beside the first ones.
    tune(plan(always_steer=True), KnownEngine, tmp_path / "out", resume=True)
    folders = {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert folders == {"test", "test-2"}


def test_an_interrupted_test_is_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(plan(), lambda: KnownEngine(fail_after=8), tmp_path / "out")
    # Six batches of the sweep and two of the test were asked.
    assert len(read_records(tmp_path / "out" / "test" / "records.jsonl")) == 2 * 64 * 3
    assert load_model_presets(tmp_path / "out")["scalingvis"] == BEST
    engine = KnownEngine()
    tuned = tune(plan(), lambda: engine, tmp_path / "out", resume=True)
    assert sum(n for n, _ in engine.calls) == 330 - 128
    assert tuned.held_out[0].questions == 330


def test_an_engine_that_cannot_be_loaded_for_the_test_is_said_once(tmp_path: Path) -> None:
    tune(plan(test=False), KnownEngine, tmp_path / "out")
    loads = []

    def load() -> KnownEngine:
        loads.append(1)
        assert len(loads) < 3
        raise ConfigError("vLLM cannot be imported")

    with pytest.raises(ConfigError, match="vLLM cannot be imported"):
        tune(plan(), load, tmp_path / "out", resume=True)
    assert loads == [1]
    assert not (tmp_path / "out" / "test-2").exists()


def test_no_test_part(tmp_path: Path) -> None:
    def validation_only(part: Part) -> list[Sample]:
        return numbered("validation") if part == "validation" else []

    task = Task("v", "", validation_only)
    tuned = tune(plan(task=task), KnownEngine, tmp_path / "a")
    assert tuned.held_out == []
    assert "the settings were not measured on a test part: Task 'v' has no questions" in (
        " ".join(tuned.warnings)
    )
    tuned = tune(plan(part="test"), KnownEngine, tmp_path / "b")
    assert tuned.held_out == []
    assert "chosen on part test, so no test part was left" in " ".join(tuned.warnings)


def test_an_unknown_objective_is_found_before_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'set_accuracy'"):
        tune(plan(objective="set_acuracy"), refuse, tmp_path / "out")
    with pytest.raises(ConfigError, match="computes no metrics"):
        tune(plan(objective="f1", task=Task("t", "", numbered)), refuse, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_images_are_said_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 10 images, got .*raise the limit"):
        tune(plan(limit=12), refuse, tmp_path / "out")


def test_without_a_threshold_scalingvis_is_chosen_alone(tmp_path: Path) -> None:
    tuned = tune(plan(limit=40), KnownEngine, tmp_path / "out")
    assert tuned.selection.scaling == BEST
    assert any(
        line.startswith("AdaptVis could not be chosen") and "raise the limit" in line
        for line in tuned.warnings
    )
    presets = load_model_presets(tmp_path / "out")
    same = AdaptVis(alpha_low=1.5, alpha_high=1.5, threshold=0.5, layers=(1, 2))
    assert presets == {"scalingvis": BEST, "adaptvis": same}
    found = json.loads((tmp_path / "out" / "adaptvis.json").read_text())["found"]
    gains = found["last_prompt_token"]["out_of_fold_gain"]
    assert gains["adaptvis_over_scalingvis"] is None
    console = Console(width=120)
    with console.capture() as capture:
        console.print(choice_table(tuned.selection))
    assert "no threshold" in capture.get()
    assert [line.method for line in tuned.held_out] == ["baseline", "scalingvis", "adaptvis"]
    assert (tmp_path / "out" / "tuning.png").is_file()


def test_an_unwritable_model_folder_is_found_before_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(tmp_path / "nowhere")
    (tmp_path / "adaptvis.json").write_text("{}")
    with pytest.raises(ConfigError, match="mend or remove"):
        check_writable(tmp_path)
