"""`adaptvis diagnose interchange` and `probes`, and what takes the directions that they write."""

import json
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli.models import SHORTCUT
from adaptvis.evaluation import read_records
from adaptvis.steering.directions import read_directions


def test_interchange_writes_its_files_and_says_which_claims_hold(adaptvis: Adaptvis) -> None:
    result = adaptvis("diagnose", "interchange", "-m", SHORTCUT, "--pairs", 4, "-o", "out")
    assert result.code == 0, result.err
    assert "Exchanging whole" in result.out
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "interchange.json",
        "interchange.parquet",
        "interchange.png",
    ]
    record = json.loads(Path("out/interchange.json").read_text())
    assert record["settings"]["model"] == SHORTCUT


def test_directions_go_from_probes_to_eval_and_tune(adaptvis: Adaptvis) -> None:
    result = adaptvis(
        *("diagnose", "probes", "-m", SHORTCUT, "--amplify", "--limit", 2, "--alphas", "3"),
        *("--controls", 1, "-o", "out"),
    )
    assert result.code == 0, result.err
    directions = Path("out/directions.safetensors")
    assert list(read_directions(directions)) == ["horizontal", "vertical"]
    amplified = json.loads(Path("out/amplification.json").read_text())
    assert amplified["settings"]["questions"] == 4

    method = json.dumps({"method": "amplify", "directions": str(directions), "alpha": 90})
    result = adaptvis(
        *("eval", "-m", SHORTCUT, "-t", "2ds", "--limit", 8, "-o", "run", "--method", "baseline"),
        *("--method", method),
    )
    assert result.code == 0, result.err
    records = list(read_records(Path("run/records.jsonl")))
    names = {r.method for r in records}
    assert names == {"baseline", f"amplify directions={directions} alpha=90.0"}
    baseline = [r.answer for r in records if r.method == "baseline"]
    assert [r.answer for r in records if r.method != "baseline"] != baseline
    assert all(r.applied for r in records if r.method != "baseline")

    result = adaptvis(
        *("tune", "-m", SHORTCUT, "-t", "2ds", "--limit", 66, "--amplify", directions),
        *("--alphas", "2", "--always-steer", "--test-limit", 6, "-o", "tuned"),
    )
    assert result.code == 0, result.err
    assert "2 (chosen)" in result.out
    assert "--preset tuned/amplify.yaml" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("diagnose", "interchange", "--kind", "cubes"), ["Unknown kind 'cubes'"]),
        (("diagnose", "interchange", "--wording", "long"), ["Unknown wording 'long'"]),
        (("diagnose", "interchange", "--kind", "shapes"), ["5 different names are needed"]),
        (("diagnose", "interchange", "--kind", "objects"), ["spells 0 as single tokens"]),
        (("diagnose", "probes", "--training", "adam"), ["Unknown training 'adam'"]),
        (("diagnose", "probes", "--alphas", "0,1"), ["numbers above 0", "'0,1'"]),
        (("diagnose", "probes", "--axes", "diagonal"), ["Unknown axis 'diagonal'"]),
        (("diagnose", "probes", "--controls", "-1"), ["--controls must not be negative"]),
        (("diagnose", "probes", "--amplify", "--part", "train"), ["Unknown part 'train'"]),
        (("tune", "-m", SHORTCUT, "--amplify", "missing"), ["Cannot read the directions missing"]),
        (
            ("tune", "-m", SHORTCUT, "--amplify", "any", "--layers", "1-3"),
            ["tuned for accuracy with --engine hf"],
        ),
        (
            ("eval", "--method", '{"method": "amplify", "directions": "no", "alpha": 2}'),
            ["cannot read no"],
        ),
    ],
)
def test_wrong_options_are_one_sentence(
    adaptvis: Adaptvis, arguments: tuple[str, ...], words: list[str]
) -> None:
    assert_one_sentence(adaptvis(*arguments), *words)
    assert not Path("adaptvis-diagnostics").exists()
