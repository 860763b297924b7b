"""Whatever is wrong ends in one sentence and exit code 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence
from PIL import Image
from safetensors.torch import load_file, save_file

from adaptvis.evaluation import read_records


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "2dss"], ["Unknown task '2dss'", "did you mean '2ds'?"]),
        (["--task", "gone.jsonl"], ["gone.jsonl does not exist"]),
        (["--engine", "hff"], ["Unknown engine 'hff'", "did you mean 'hf'?"]),
        (["--dtype", "float23"], ["Unknown dtype", "did you mean 'float32'?"]),
        (["--model", "no-such-model"], ["Unknown model 'no-such-model'", "existing folder"]),
        (["--model", "."], ["holds no model", "config.json"]),
        (["--examples", "-1"], ["examples"]),
    ],
)
def test_unknown_names(adaptvis: Adaptvis, arguments: list[str], words: list[str]) -> None:
    assert_one_sentence(adaptvis("eval", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "scalingviz"], ["Unknown method", "did you mean 'scalingvis'?"]),
        (["--method", '{"method": "scalingvis", "alpha": NaN}'], ["alpha", "finite", "nan"]),
        (["--method", '{"method": "scalingvis", "alpha": Infinity}'], ["alpha", "finite"]),
        (["--method", '{"method": "scalingvis", "alpha": -1}'], ["alpha", "0 to 1000"]),
        (["--method", '{"method": "scalingvis"}'], ["alpha: is required"]),
        (["--method", '{"method": "adaptvis", "threshold": 1.5}'], ["threshold", "1.5"]),
        (["--method", '{"method": "adaptvis", "alpa_low": 1}'], ["alpa_low"]),
        (["--method", '{"method": "adaptviz"}'], ["did you mean 'adaptvis'?"]),
        (["--method", "{"], ["not valid JSON"]),
        (["--method", "gone.yaml"], ["Cannot read", "gone.yaml"]),
        (["--preset", "adaptvis-coco"], ["Unknown preset", "did you mean 'adaptvis-coco_"]),
        (["--method", "baseline", "--method", "baseline"], ["'baseline' is given 2 times"]),
        (["--batch-size", "0"], ["batch size", "at least 1"]),
        (["--limit", "0"], ["limit", "at least 1"]),
        (["--batch-size", "many"], ["--batch-size takes a number or auto, got 'many'"]),
        (["--max-errors", "half"], ["--max-errors takes a share such as 5%"]),
        (["--shard", "3/2"], ["--shard takes I/N with I from 1 to N"]),
        (["--merge", "gone"], ["The folder gone holds no shard"]),
        (["--part", "tests"], ["Unknown part 'tests'", "did you mean 'test'?"]),
        (["--prompts", "rav"], ["Unknown prompts 'rav'", "did you mean 'raw'?"]),
        (["--task", "2ds", "--prompts", "raw"], ["has no published raw prompt"]),
        (["--executor", "rai"], ["Unknown executor 'rai'", "did you mean 'ray'?"]),
        (["--workers", "2"], ["--workers counts the workers of --executor ray"]),
        (["--seed", "-1"], ["seed"]),
    ],
)
def test_bad_values(
    adaptvis: Adaptvis, model_folder: Path, arguments: list[str], words: list[str]
) -> None:
    result = adaptvis("eval", "--model", model_folder, *arguments)
    assert_one_sentence(result, *words)
    folder = Path("adaptvis-results")
    assert not folder.exists() or not any(folder.iterdir())


def test_a_bad_layer_is_refused_by_the_engine(adaptvis: Adaptvis, model_folder: Path) -> None:
    method = '{"method": "scalingvis", "alpha": 2, "layers": [99]}'
    result = adaptvis("eval", "-m", model_folder, "--method", method, "--limit", 2, "-t", "2ds")
    assert result.code == 2
    assert "99" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_outputs(adaptvis: Adaptvis, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    for output, words in [("file/x", "Cannot write"), ("full", "already holds other files")]:
        assert_one_sentence(adaptvis("eval", "-m", model_folder, "-o", output), words)
    resumed = adaptvis("eval", "-m", model_folder, "-o", "full", "--resume")
    assert_one_sentence(resumed, "no run to resume")


def test_data(adaptvis: Adaptvis, model_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    entries = [
        {"image": name, "question": "Where?", "answer": "left"} for name in ("good.png", "bad.png")
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, entries)))
    run = ("eval", "-m", model_folder, "-t", "mine.jsonl", "--method", "baseline", "-o", "out")
    result = adaptvis(*run, "--max-errors", 0)
    assert_one_sentence(result, "mine.jsonl, line 2", "bad.png cannot be read")
    # and the run goes on when the image is mended
    shutil.copy(tmp_path / "good.png", tmp_path / "bad.png")
    assert adaptvis(*run, "--max-errors", 0, "--resume").code == 0
    assert [r.error for r in read_records(tmp_path / "out" / "records.jsonl")] == ["", ""]


def test_models_that_cannot_be_loaded(adaptvis: Adaptvis, tmp_path: Path) -> None:
    for name, config in [("text", {"model_type": "llama"}), ("empty", {"model_type": "llava"})]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    run = ("eval", "-t", "2ds", "--limit", 2, "-m")
    assert_one_sentence(adaptvis(*run, "text"), "Unknown model family 'llama'", "register_family")
    assert_one_sentence(adaptvis(*run, "empty"), "Cannot load the model empty")


def test_damaged_weights(adaptvis: Adaptvis, model_folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model_folder, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500_000])
    result = adaptvis("eval", "-t", "2ds", "--limit", 2, "-m", damaged)
    assert_one_sentence(result, "weights of the model", "damaged")


def test_weights_that_the_checkpoint_lacks_are_not_made_up(
    adaptvis: Adaptvis, model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "part"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    (lost,) = [
        name
        for name in weights
        if name.endswith("layers.2.mlp.up_proj.weight") and "language_model" in name
    ]
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(model_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    result = adaptvis("eval", "-t", "2ds", "--limit", 2, "-m", tmp_path / "other")
    assert_one_sentence(result, "does not belong to its config.json", "mlp.", "should be of")
    said = ("not whole", "layers.2.mlp.up_proj.weight", "random numbers")
    run = ("--limit", 2, "-m", folder)
    assert_one_sentence(adaptvis("eval", "-t", "2ds", *run), *said)
    assert_one_sentence(adaptvis("tune", "-t", "2ds", "-o", "tuned", "-m", folder), *said)
    assert_one_sentence(adaptvis("diagnose", "norms", *run), *said)


def test_an_interruption_says_how_to_go_on(
    adaptvis: Adaptvis, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("adaptvis.evaluation.evaluate", interrupted)
    result = adaptvis("eval", "-m", model_folder, "-o", "out")
    assert result.code == 130
    assert "--resume --output out" in result.err


def test_tune_and_train(adaptvis: Adaptvis, model_folder: Path) -> None:
    tune = ("tune", "-m", model_folder)
    assert_one_sentence(adaptvis(*tune, "--alphas", "0.5,x"), "--alphas", "0.5,x")
    assert_one_sentence(adaptvis(*tune, "--alphas", "nan,1"), "finite")
    assert_one_sentence(adaptvis(*tune, "--layers", "3-1"), "runs backwards")
    assert_one_sentence(adaptvis(*tune, "--rows", "last"), "Unknown rows 'last'")
    assert_one_sentence(adaptvis(*tune, "--part", "tests"), "did you mean 'test'?")
    assert_one_sentence(adaptvis("train"), "--recipe", "--list")
    wrong = adaptvis("train", "--recipe", "tiny-2d", "--output", "x")
    assert_one_sentence(wrong, "did you mean 'tiny-2ds'?")
    continued = adaptvis("train", "--recipe", "tiny-2ds-shortcut", "--output", "x")
    assert_one_sentence(continued, "--base")


def test_a_wrong_option_has_no_traceback(adaptvis: Adaptvis) -> None:
    result = adaptvis("eval", "--limit", "many")
    assert result.code == 2
    assert "--limit" in result.err
    assert "Traceback" not in result.err


def test_the_module_and_its_exit_code_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "adaptvis", "eval", "--task", "nothing"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: Unknown task 'nothing'")
    assert done.stderr.count("\n") == 1
