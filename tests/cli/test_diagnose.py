"""`adaptvis diagnose` on the embedded model."""

import json
import shlex
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli.models import SHORTCUT


@pytest.mark.parametrize("name", ["norms", "permutation", "compression"])
def test_an_instrument_prints_its_findings_and_writes_its_files(
    adaptvis: Adaptvis, tmp_path: Path, name: str
) -> None:
    result = adaptvis("diagnose", name, "--limit", 12)
    assert result.code == 0, result.err
    assert "claim of the paper" in result.out
    assert "cannot tell" in result.out
    folder = tmp_path / "adaptvis-diagnostics"
    assert {p.name for p in folder.iterdir()} == {f"{name}.{k}" for k in ("json", "parquet", "png")}
    record = json.loads((folder / f"{name}.json").read_text())
    assert record["settings"]["questions"] == 12
    assert record["settings"]["model"] == SHORTCUT
    assert "12/12" in result.err


def test_an_instrument_looks_under_a_setting(adaptvis: Adaptvis, tmp_path: Path) -> None:
    method = '{"method": "norm_rescale", "target": 2.0}'
    result = adaptvis("diagnose", "norms", "--limit", 6, "--method", method, "-o", "out")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "norms.json").read_text())
    assert record["settings"]["steering"]["target"] == 2.0
    assert record["summary"]["image tokens"]["mean"] == pytest.approx(2.0)


def test_results_are_not_replaced(adaptvis: Adaptvis, tmp_path: Path) -> None:
    first = adaptvis("diagnose", "norms", "--limit", 6, "-o", "out")
    assert "note: a verdict takes at least 20 images" in first.err
    content = (tmp_path / "out" / "norms.json").read_bytes()
    assert_one_sentence(
        adaptvis("diagnose", "norms", "--limit", 12, "-o", "out"),
        "out/norms.json is there already",
        "another --output",
    )
    assert (tmp_path / "out" / "norms.json").read_bytes() == content
    assert adaptvis("diagnose", "rope", "--limit", 6, "-o", "out").code == 0


def test_a_folder_of_an_earlier_report_is_refused(adaptvis: Adaptvis, tmp_path: Path) -> None:
    (tmp_path / "out" / SHORTCUT).mkdir(parents=True)
    asked = ("diagnose", "report", "--only", "norms", "--limit", 6, "-o", "out")
    assert_one_sentence(adaptvis(*asked), f"out/{SHORTCUT} is there already")


def test_an_output_that_cannot_be_written_is_refused_first(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    asked = ("diagnose", "norms", "-m", "tiny-2ds-seed1", "-o", "file/out")
    assert_one_sentence(adaptvis(*asked), "Cannot write to the folder file/out")


def test_variants_stand_beside_the_model(adaptvis: Adaptvis, tmp_path: Path) -> None:
    arguments = ("--limit", 12, "--tokens", "4", "--variant", "same=tiny-2ds-shortcut-seed1")
    result = adaptvis("diagnose", "compression", *arguments, "-o", "out")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "out" / "compression.json").read_text())["summary"]
    assert summary["variant same"]["drop"] == 0
    assert summary["variant same"]["tokens"] == 49


def test_the_report_says_how_to_repeat_it(adaptvis: Adaptvis, tmp_path: Path) -> None:
    asked = ("diagnose", "report", "--only", "norms", "--limit", "12", "--seed", "3")
    result = adaptvis(*asked, "-o", "out")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "report.html").read_text()
    repeat = f"adaptvis diagnose norms --model {SHORTCUT} --task 2ds --seed 3 --limit 12"
    assert repeat in page
    assert f"adaptvis diagnose report --model {SHORTCUT} --task 2ds --seed 3 --limit 12" in page
    first = json.loads((tmp_path / "out" / SHORTCUT / "norms.json").read_text())["summary"]
    again = adaptvis(*shlex.split(repeat)[1:], "-o", "again")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again" / "norms.json").read_text())["summary"] == first


def test_an_interrupted_report_is_a_page_of_what_finished(
    adaptvis: Adaptvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from adaptvis.diagnostics import report

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    instruments = tuple(
        replace(i, run=interrupt) if i.name == "permutation" else i for i in report.INSTRUMENTS
    )
    monkeypatch.setattr(report, "INSTRUMENTS", instruments)
    only = ("--only", "norms", "--only", "permutation")
    result = adaptvis("diagnose", "report", *only, "--limit", 2, "-o", "out")
    assert result.code == 130
    assert "out/report.html" in result.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "stopped before the last instrument" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("norms", "--part", "tset"), ("did you mean 'test'",)),
        (("norms", "--seed", "-1"), ("must not be negative",)),
        (("norms", "--batch-size", "0"), ("at least 1 question",)),
        (("norms", "--limit", "0"), ("at least 1 question",)),
        (("norms", "--dtype", "int8"), ("'int8'", "bfloat16")),
        (("norms", "-m", "tiny-2ds-seed9"), ("tiny-2ds-seed1",)),
        (("norms", "--preset", "x", "--method", "y"), ("give one",)),
        (("permutation", "--permutations", "0", "--limit", "6"), ("at least 1 permutation",)),
        (("compression", "--tokens", "many"), ("whole numbers", "'many'")),
        (("compression", "--tokens", "10", "--limit", "6"), ("square numbers",)),
        (("compression", "--variant", "x"), ("NAME=MODEL",)),
        (("compression", "--variant", "x=nowhere"), ("'nowhere'",)),
        (("report", "--only", "norm"), ("did you mean 'norms'",)),
    ],
)
def test_wrong_options_are_one_sentence(
    adaptvis: Adaptvis, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_sentence(adaptvis("diagnose", *arguments), *words)
    assert list(tmp_path.iterdir()) == []
