"""The command line in this process, and a small real model."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Result(NamedTuple):
    code: int
    out: str
    err: str


Adaptvis = Callable[..., Result]


@pytest.fixture
def adaptvis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Adaptvis:
    """Run `adaptvis ARGUMENTS` in an empty folder."""
    from adaptvis.cli.app import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["adaptvis", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return Result(int(exit_info.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded models' architecture with random weights."""
    from adaptvis.training.tiny.export import export
    from adaptvis.training.tiny.model import build_model

    folder = tmp_path_factory.mktemp("models") / "random-tiny"
    export(build_model(0), folder)
    return folder


def assert_one_sentence(result: Result, *words: str) -> None:
    """Exit code 2, one line on stderr that holds the words, nothing on stdout."""
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert re.search(re.escape(word), lines[0]), lines[0]
