"""`adaptvis diagnose attention` and `rope` on the embedded models."""

import json
from pathlib import Path

from cli.conftest import Adaptvis, assert_one_sentence


def test_attention(adaptvis: Adaptvis, tmp_path: Path) -> None:
    result = adaptvis(
        *("diagnose", "attention", "--limit", 12, "--preset", "scalingvis-text"),
        *("--words", "left, object", "--maps", 2, "--layers", "1-2", "-o", "found"),
    )
    assert result.code == 0, result.err
    for name in ("attention", "attention_maps"):
        for kind in ("json", "parquet", "png"):
            assert (tmp_path / "found" / f"{name}.{kind}").is_file()
    assert "cannot tell" in result.out
    record = json.loads((tmp_path / "found" / "attention.json").read_text())
    assert record["settings"]["words"] == ["left", "object"]
    assert record["settings"]["questions"] == 12
    maps = json.loads((tmp_path / "found" / "attention_maps.json").read_text())
    assert maps["settings"]["layers"] == [1, 2]
    assert len(maps["settings"]["shown"]) == 2


def test_without_maps(adaptvis: Adaptvis, tmp_path: Path) -> None:
    assert adaptvis("diagnose", "attention", "--limit", 6, "--maps", 0, "-o", "found").code == 0
    assert not (tmp_path / "found" / "attention_maps.png").exists()


def test_rope(adaptvis: Adaptvis, tmp_path: Path) -> None:
    result = adaptvis("diagnose", "rope", "--limit", 6, "--steps", 0.1, "-o", "found")
    assert result.code == 0, result.err
    assert "R squared" in result.out
    assert json.loads((tmp_path / "found" / "rope.json").read_text())["settings"]["steps"] == 0.1


def test_mistakes_are_one_sentence(adaptvis: Adaptvis) -> None:
    attention = ("diagnose", "attention", "--limit", 6)
    assert_one_sentence(adaptvis(*attention, "--layers", "2-x"), "--layers")
    assert_one_sentence(adaptvis(*attention, "--layers", "7"), "4 layers, counted from 0")
    assert_one_sentence(adaptvis(*attention, "--maps", -1), "--maps")
    assert_one_sentence(adaptvis(*attention, "--words", "zebra"), "'zebra'", "behind its image")
    rope = ("diagnose", "rope", "--limit", 6)
    assert_one_sentence(adaptvis(*rope, "--steps", 0), "steps")
    assert_one_sentence(adaptvis(*rope, "--method", "scalingvis"), "multiplies them")
