"""`adaptvis tune` on a real model, and what takes the settings that it writes."""

import json
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli.models import CONVERGED, resolve_model
from adaptvis.config import load_config
from adaptvis.evaluation import read_records
from adaptvis.presets import find_config, load_model_presets

# Three questions of an image: ten images and a threshold take few of them.
TASK = "2ds-prior-balanced"


@pytest.fixture
def tuned(adaptvis: Adaptvis, model_folder: Path) -> Path:
    result = adaptvis(
        *("tune", "-m", model_folder, "-t", TASK, "--limit", 54, "--alphas", "0.5,1,2"),
        *("--layers", "all", "--layers", "1-3", "-o", "tuned", "--always-steer"),
        *("--test-limit", 12),
    )
    assert result.code == 0, result.err
    for expected in ("Chosen", "On the test part, 12 questions", "--preset tuned/adaptvis.yaml"):
        assert expected in result.out
    assert "2000 or more" in result.err
    assert "coefficient of the grid" in result.err
    return Path("tuned")


def test_what_tune_writes_is_what_eval_serve_and_patch_take(
    adaptvis: Adaptvis, tuned: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = load_model_presets(tuned)
    assert set(presets) == {"scalingvis", "adaptvis"}
    assert presets["scalingvis"].alpha in (0.5, 2)  # type: ignore[union-attr]
    assert load_config(tuned / "adaptvis.yaml") == presets["adaptvis"]
    assert {p.name for p in tuned.iterdir()} == {
        *("adaptvis.json", "adaptvis.yaml", "scalingvis.yaml", "tuning.png", "test"),
        *("sweep.json", "sweep.jsonl"),
    }
    # The model's own folder is left alone where an output is named.
    assert not (model_folder / "adaptvis.json").exists()

    evaluated = adaptvis(
        *("eval", "-m", model_folder, "-t", "2ds", "--limit", 6, "-o", "out"),
        *("--method", "baseline", "--method", tuned / "scalingvis.yaml"),
        *("--preset", f"{tuned / 'adaptvis.json'}:adaptvis"),
    )
    assert evaluated.code == 0, evaluated.err
    records = read_records(Path("out/records.jsonl"))
    assert [r.method for r in records[:3]] == ["baseline", "scalingvis", "adaptvis"]
    assert records[1].alpha == presets["scalingvis"].alpha  # type: ignore[union-attr]

    from adaptvis.cli.models import resolve_model
    from adaptvis.cli.serve import _named

    model = resolve_model(str(model_folder))
    assert _named(str(tuned / "adaptvis.yaml"), model) == presets["adaptvis"]
    assert _named(f"{tuned / 'adaptvis.json'}:scalingvis", model) == presets["scalingvis"]

    import adaptvis as library
    from adaptvis.hf.engine import HFEngine

    engine = HFEngine.load(model_folder)
    with library.steer(engine.model, tuned / "adaptvis.yaml") as handle:
        assert handle.attention == presets["adaptvis"]
    with library.steer(engine.model, "adaptvis-vsr") as handle:
        assert handle.attention == library.preset("adaptvis-vsr")
    handle = library.patch(engine.model, f"{tuned / 'adaptvis.json'}:adaptvis")
    assert handle.attention == presets["adaptvis"]
    handle.remove()


def test_a_finished_sweep_is_read_back(
    adaptvis: Adaptvis, tuned: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr("adaptvis.cli.models.load_engine", refuse)
    same = (
        *("tune", "-m", model_folder, "-t", TASK, "--limit", 54, "--alphas", "0.5,1,2"),
        *("--layers", "all", "--layers", "1-3", "-o", "tuned", "--always-steer"),
    )
    again = adaptvis(*same, "--resume", "--seed", 1, "--no-test")
    assert again.code == 0, again.err
    assert_one_sentence(adaptvis(*same), "already holds a sweep", "--resume")
    changed = adaptvis(*same, "--resume", "--batch-size", 7)
    assert_one_sentence(changed, "batch_size was 100, now 7")


def test_without_an_output_the_model_gets_the_settings(adaptvis: Adaptvis, tmp_path: Path) -> None:
    from adaptvis.training.tiny.export import export
    from adaptvis.training.tiny.model import build_model

    export(build_model(0), tmp_path / "mine")
    run = ("tune", "-m", "mine", "-t", TASK, "--limit", 54, "--alphas", "1,2", "--layers", "all")
    result = adaptvis(*run, "--no-test")
    assert result.code == 0, result.err
    assert "The settings also went to mine/adaptvis.json" in result.out
    own = json.loads(Path("mine/adaptvis.json").read_text())
    assert own == json.loads(Path("adaptvis-tuning/adaptvis.json").read_text())
    assert f"Use them: adaptvis eval -m mine -t {TASK} --method baseline --preset" in result.out
    assert adaptvis(*run, "--no-test").code == 0
    assert Path("adaptvis-tuning-2/sweep.jsonl").is_file()
    # What was stored beside the weights does not make them another model.
    resumed = adaptvis(*run, "--no-test", "--resume")
    assert resumed.code == 0, resumed.err


def test_the_embedded_models_keep_their_settings(adaptvis: Adaptvis) -> None:
    stored = Path(resolve_model(CONVERGED).source) / "adaptvis.json"
    before = stored.read_bytes()
    run = ("tune", "-m", CONVERGED, "-t", TASK, "--limit", 54, "--alphas", "1,2")
    result = adaptvis(*run, "--layers", "all", "--no-test")
    assert result.code == 0, result.err
    assert "also went" not in result.out
    assert stored.read_bytes() == before


def test_presets_by_text(tmp_path: Path) -> None:
    from adaptvis import ScalingVis
    from adaptvis.errors import ConfigError

    own = {"adaptvis-vsr": ScalingVis(alpha=3)}
    assert find_config("adaptvis-vsr", own) == ScalingVis(alpha=3)
    assert find_config('{"method": "scalingvis", "alpha": 2}') == ScalingVis(alpha=2)
    path = tmp_path / "two.json"
    path.write_text(
        '{"presets": {"a": {"method": "scalingvis", "alpha": 2}, "b": {"method": "adaptvis"}}}'
    )
    assert find_config(f"{path}:a") == ScalingVis(alpha=2)
    with pytest.raises(ConfigError, match=r"holds the presets a, b; name one of them: .*json:a"):
        find_config(str(path))
    with pytest.raises(ConfigError, match="Unknown preset 'c': known are a, b"):
        find_config(f"{path}:c")
    (tmp_path / "one.yaml").write_text("method: scalingvis\nalpha: 2\n")
    with pytest.raises(ConfigError, match="holds one configuration, so it has no preset 'a'"):
        find_config(f"{tmp_path / 'one.yaml'}:a")
    with pytest.raises(ConfigError, match="did you mean 'adaptvis-vsr'"):
        find_config("adaptvis-vrs")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "f1"], ["2ds computes no metrics", "'f1'"]),
        (["--prompts", "row"], ["Unknown prompts 'row'", "did you mean 'raw'?"]),
        (["--prompts", "raw", "--limit", "40"], ["no published raw prompt"]),
        (["--batch-size", "0"], ["batch size", "at least 1"]),
        (["--limit", "8"], ["at least 10 images", "raise the limit"]),
    ],
)
def test_bad_values(
    adaptvis: Adaptvis, model_folder: Path, arguments: list[str], words: list[str]
) -> None:
    run = ("tune", "-m", model_folder, "-t", "2ds", "-o", "out", "--layers", "all")
    result = adaptvis(*run, "--alphas", "1,2", *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err.splitlines()[-1]
