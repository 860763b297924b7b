"""`adaptvis convert`, and the other commands on what it wrote."""

import json
import re
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence
from safetensors.torch import load_file

from adaptvis.cli.models import CONVERGED, embedded_models


def test_an_embedded_model_goes_there_and_back(adaptvis: Adaptvis, tmp_path: Path) -> None:
    assert "Wrote ours" in adaptvis("convert", CONVERGED, "ours").out
    assert adaptvis("convert", "ours", "back", "--to", "llava").code == 0
    before = load_file(embedded_models()[CONVERGED] / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert set(before) == set(after)
    assert all(before[name].equal(after[name]) for name in before)


def test_eval_and_doctor_take_the_result_with_no_extra_flag(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    assert adaptvis("convert", CONVERGED, "ours").code == 0
    doctor = adaptvis("doctor", "--model", "ours")
    assert re.search("adaptvis_llava", doctor.out), doctor
    found = {}
    for model in (CONVERGED, "ours"):
        run = ("eval", "-m", model, "-t", "2ds", "--limit", 6, "--method", "scalingvis")
        result = adaptvis(*run, "--dtype", "float32", "-o", f"run-{model}")
        assert result.code == 0, result
        rows = [
            json.loads(line)
            for path in sorted((tmp_path / f"run-{model}").rglob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        found[model] = [(row.get("answer"), row.get("confidence")) for row in rows]
    assert found[CONVERGED] == found["ours"]
    assert len(found["ours"]) >= 6


def test_options_are_switched_on(adaptvis: Adaptvis, tmp_path: Path) -> None:
    options = ("--normalize", "--compression", 16, "--vision-feature-layers", "1,2,4")
    assert_one_sentence(adaptvis("convert", CONVERGED, "ours", *options), "--new-projector")
    result = adaptvis("convert", CONVERGED, "ours", *options, "--new-projector", "--seed", 2)
    assert result.code == 0, result
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (config["normalize"], config["compression"]) == (True, 16)
    assert config["vision_feature_layer"] == [1, 2, 4]


def test_a_report_shows_where_a_model_with_pooled_tokens_looks(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    assert adaptvis("convert", CONVERGED, "ours", "--compression", 16).code == 0
    methods = ("--method", "baseline", "--method", '{"method": "scalingvis", "alpha": 40}')
    result = adaptvis("eval", "-m", "ours", "-t", "2ds", "--limit", 12, *methods, "-o", "out")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "report.html").read_text()
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    maps = [example["attention"] for example in json.loads(data)["examples"]]
    assert maps
    assert all(maps)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing/there/model", "out"], ["There is no model folder", "org/name"]),
        ([CONVERGED, "out", "--to", "lava"], ["Unknown layout 'lava'", "did you mean 'llava'?"]),
        ([CONVERGED, "out", "--compression", "15"], ["square number from 1 to 49"]),
        ([CONVERGED, "out", "--vision-feature-layers", "a,b"], ["12,16,20,24", "'a,b'"]),
        (
            [CONVERGED, "out", "--vision-feature-layers", "9", "--new-projector"],
            ["9 is out of range", "4 blocks"],
        ),
        ([CONVERGED, "out", "--target-mean", "1"], ["belong to normalize"]),
        ([CONVERGED, "out", "--normalize", "--max-norm", "-1"], ["max_norm", "above 0"]),
        ([CONVERGED, "."], ["not empty"]),
        ([CONVERGED, "out", "--vision-tower", "/does/not/exist"], ["has its own vision tower"]),
        (["tiny-2ds-sed1", "out"], ["did you mean 'tiny-2ds-seed1'?"]),
        ([CONVERGED, "out", "--seed", "-1"], ["seed"]),
    ],
)
def test_wrong_arguments_end_in_one_sentence(
    adaptvis: Adaptvis, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "something").write_text("x")
    assert_one_sentence(adaptvis("convert", *arguments), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_an_embedded_name_is_a_tower_for_a_source_of_the_original_code(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    named = ("--to", "original", "--vision-tower", "a-tower")
    assert adaptvis("convert", CONVERGED, "original", *named).code == 0
    nowhere = adaptvis("convert", "original", "back", "--vision-tower", "/tmp/nothing")
    assert_one_sentence(nowhere, "There is no model folder /tmp/nothing")
    result = adaptvis("convert", "original", "back", "--vision-tower", CONVERGED)
    assert result.code == 0, result.err
    before = load_file(embedded_models()[CONVERGED] / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


def test_norms_that_were_trained_are_not_replaced_by_measured_ones(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    trained = ("--target-mean", 0.5, "--max-norm", 2.0)
    assert adaptvis("convert", CONVERGED, "one", "--normalize", *trained).code == 0
    for numbers in ((), trained[:2], trained[2:]):
        result = adaptvis("convert", "one", "two", "--normalize", *numbers)
        assert_one_sentence(result, "target_mean 0.5", "max_norm 2", "--target-mean")
    given = ("--target-mean", 0.6, "--max-norm", 3.0)
    assert adaptvis("convert", "one", "two", "--normalize", *given).code == 0
    assert adaptvis("convert", "one", "three").code == 0
    found = {
        name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("two", "three")
    }
    assert (found["two"]["target_mean"], found["two"]["max_norm"]) == (0.6, 3.0)
    assert (found["three"]["target_mean"], found["three"]["max_norm"]) == (0.5, 2.0)


def test_plain_llava_with_several_layers_is_noted_as_not_for_vllm(adaptvis: Adaptvis) -> None:
    layers = ("--vision-feature-layers", "1,2", "--new-projector")
    several = adaptvis("convert", CONVERGED, "several", "--to", "llava", *layers)
    assert several.code == 0
    assert "vLLM's LLaVA does not" in several.err
    one = adaptvis("convert", CONVERGED, "one", "--to", "llava")
    assert one.code == 0
    assert "vLLM" not in one.err
