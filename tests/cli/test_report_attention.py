"""Attention maps come last: whatever becomes of them, a finished run keeps its report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Adaptvis

from adaptvis.cli.models import CONVERGED, SHORTCUT, load_engine
from adaptvis.errors import CheckpointError

Raising = Callable[..., None]
RUN = (
    *("eval", "-t", "2ds-prior-conflicting", "--limit", 24, "--method", "baseline"),
    *("--method", '{"method": "scalingvis", "alpha": 1.5}'),
)


def raising(problem: BaseException) -> Raising:
    def fail(*_: object, **__: object) -> None:
        raise problem

    return fail


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded, in their order."""
    found: list[str] = []
    usual = load_engine

    def load(source: str, **options: object) -> object:
        found.append(Path(source).name)
        return usual(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("adaptvis.cli.models.load_engine", load)
    return found


def maps_in(folder: str) -> list[bool]:
    """Of each example in the report, whether it has a map."""
    page = Path(folder, "report.html").read_text()
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return [bool(example["attention"]) for example in json.loads(data)["examples"]]


def test_the_model_asked_last_is_not_loaded_again(adaptvis: Adaptvis, loaded: list[str]) -> None:
    # So large an alpha changes answers of both models.
    strong = ("--limit", 12, "--method", '{"method": "scalingvis", "alpha": 40}')
    result = adaptvis(*RUN, *strong, "-m", SHORTCUT, "-m", CONVERGED, "-o", "out")
    assert result.code == 0, result.err
    assert loaded == [SHORTCUT, CONVERGED, SHORTCUT]
    assert len(maps_in("out")) > 4
    assert all(maps_in("out"))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (RuntimeError("CUDA out of memory.\nTried"), "RuntimeError: CUDA out of memory. Tried"),
        (MemoryError(), "MemoryError: no reason given"),
        (CheckpointError("no such weights"), "no attention map: no such weights"),
    ],
)
def test_a_failing_map_loses_only_the_maps(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, problem: Exception, words: str
) -> None:
    monkeypatch.setattr("adaptvis.hf.image_attention.image_attention", raising(problem))
    result = adaptvis(*RUN, "-m", SHORTCUT, "-o", "out")
    assert result.code == 0, result.err
    assert words in result.err
    assert "Traceback" not in result.err
    assert maps_in("out")
    assert not any(maps_in("out"))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (CheckpointError("gone"), f"no attention maps of {SHORTCUT}: gone"),
        (RuntimeError("out of memory"), f"maps of {SHORTCUT}: RuntimeError: out of memory"),
        (KeyboardInterrupt(), "interrupted; the run is finished, and its report has no attention"),
    ],
)
def test_a_finished_run_needs_no_model_for_its_report(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, problem: BaseException, words: str
) -> None:
    run = (*RUN, "-m", SHORTCUT, "-o", "out")
    assert adaptvis(*run, "--no-attention").code == 0
    Path("out/report.html").unlink()
    monkeypatch.setattr("adaptvis.cli.models.load_engine", raising(problem))
    result = adaptvis(*run, "--resume")
    assert result.code == 0, result.err
    assert words in result.err
    assert "Written to" in result.out
    assert maps_in("out")


def test_merging_loads_no_model(adaptvis: Adaptvis, loaded: list[str]) -> None:
    run = (*RUN, "-m", SHORTCUT)
    for number in (1, 2):
        assert adaptvis(*run, "--shard", f"{number}/2", "-o", number).code == 0
    assert loaded == [SHORTCUT, SHORTCUT]
    assert adaptvis(*run, "--merge", 1, "--merge", 2, "-o", "out").code == 0
    assert loaded == [SHORTCUT, SHORTCUT]
    assert maps_in("out")
    assert not any(maps_in("out"))


def test_an_interrupted_summary_is_finished_by_resuming(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (*RUN, "-m", SHORTCUT, "--no-attention")
    with monkeypatch.context() as interrupted:
        interrupted.setattr("adaptvis.evaluation.summary.summarise", raising(KeyboardInterrupt()))
        result = adaptvis(*run)
    assert result.code == 130
    assert "--resume --output adaptvis-results" in result.err
    assert adaptvis(*run, "--resume").code == 0
    assert maps_in("adaptvis-results")
