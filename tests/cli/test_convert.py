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
        ([CONVERGED, "out", "--seed", "-1"], ["seed"]),
    ],
)
def test_wrong_arguments_end_in_one_sentence(
    adaptvis: Adaptvis, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "something").write_text("x")
    assert_one_sentence(adaptvis("convert", *arguments), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]
