"""The tutorial's checkpoint, trained and served by the tutorial's commands, is steered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.tutorial import FOLDER, command, commands, run, shortened

from .server import ADAPTVIS_SERVE, Server


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tutorial was followed up to the training."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "examples").symlink_to(FOLDER.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("bases.py", "data.py", "train"):
            run(shortened(command(name)))
    return folder


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    serve = command("serve")
    assert serve[:2] == ["adaptvis", "serve"]
    options = ("--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "4")
    with Server(*ADAPTVIS_SERVE, *serve[2:], *options, log=trained / "log") as running:
        yield running


def test_the_tutorials_client_is_answered_unsteered_and_steered(
    server: Server, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    config = json.loads((trained / "tutorial/normalized/config.json").read_text())
    assert (config["model_type"], config["normalize"]) == ("adaptvis_llava", True)
    said = run([*command("serve_client.py"), "--url", server.url]).splitlines()
    off, scaling, adaptive = zip(said[1::2], said[2::2], strict=True)
    assert off[0] == '{"adaptvis": "off"}'
    assert "not steered: steering is off" in off[1]
    assert scaling[0] == '{"adaptvis_alpha": 2.0}'
    assert "alpha 2)" in scaling[1]
    assert adaptive[1].rstrip(")").endswith(("alpha 2", "alpha 1.2"))


def test_serving_comes_after_everything_that_it_needs() -> None:
    names = [Path(words[1]).name for words in commands()]
    assert names.index("train") < names.index("serve") < names.index("serve_client.py")
