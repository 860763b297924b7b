"""The page: every model and instrument in its place, whatever fails, and nothing unescaped."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from diagnostics.conftest import unchanged
from evaluation.browser import Browser, find_chromium

from adaptvis.diagnostics.drawing import new_figure
from adaptvis.diagnostics.report import INSTRUMENTS, PAGE, Instrument, Subject, examine, write_page
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.errors import CheckpointError, OutputError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Task

EVIL = '<script>alert("1")</script>'


@dataclass(frozen=True, kw_only=True)
class Small(Result):
    """A result that says what it is told."""

    instrument = "small"
    title = "Small things"
    source = "A paper, section 1"

    claims: tuple[Finding, ...] = ()

    def summary(self) -> dict[str, Any]:
        return {"half": 0.5, EVIL: EVIL, "interval": [0.1, 0.2], "nothing": None}

    def rows(self) -> list[dict[str, Any]]:
        return [{"half": 0.5}]

    def figure(self) -> Any:
        return new_figure()[0]

    def reading(self) -> str:
        return f"Read it & weep {EVIL}."

    def findings(self) -> list[Finding]:
        return list(self.claims)


def small(*claims: Finding) -> Instrument:
    return Instrument("small", 6, lambda s: Small(engine=s.engine.describe(), claims=claims))


def refusing(problem: Exception, name: str = "refusing") -> Instrument:
    def run(_: Subject) -> Result:
        raise problem

    return Instrument(name, 6, run)


def run(engine: HFEngine, task: Task, folder: Path, *instruments: Instrument, name: str = "one"):
    return examine(
        name,
        lambda: engine,
        task,
        folder / name.replace("/", "-"),
        command=lambda i, count: f"adaptvis diagnose {i.name} --limit {count}",
        instruments=instruments,
        batch_size=32,
        limit=6,
    )


def page_of(examined: list[Any], folder: Path) -> str:
    path = write_page(examined, folder, command=f"adaptvis diagnose report {EVIL}", about={"a": 1})
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(shortcut: HFEngine, two_ds: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All instruments on few questions, with one that fails, for two models."""
    folder = tmp_path_factory.mktemp("report")
    broken = refusing(UnsupportedError("This model has no such thing; use another"))
    examined = [
        run(shortcut, two_ds, folder, *INSTRUMENTS, broken, name=name) for name in ("one", "two")
    ]
    return write_page(examined, folder, command="adaptvis diagnose report", about={"seed": 0})


def test_every_instrument_has_its_picture_reading_and_command(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for instrument in INSTRUMENTS:
        assert f'<section id="{instrument.name}">' in text
        for model in ("one", "two"):
            record = json.loads((page.parent / model / f"{instrument.name}.json").read_text())
            assert record["source"] in text
        assert text.count(f"adaptvis diagnose {instrument.name} --limit 6") == 2
    assert text.count("data:image/png;base64,") == 2 * len(INSTRUMENTS)
    assert text.count("Not measured. This model has no such thing; use another") == 2


def test_the_page_needs_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", text)
    assert "default-src 'none'" in text
    # It is sent to others: where the model lies on this machine is not theirs to know.
    assert "/assets/models" not in text


def test_foreign_text_is_escaped(shortcut: HFEngine, two_ds: Task, tmp_path: Path) -> None:
    claim = Finding(f"claim {EVIL}", f"measured {EVIL}", True)
    examined = [run(shortcut, two_ds, tmp_path, small(claim), refusing(ValueError(EVIL)), name="x")]
    examined[0] = type(examined[0])(EVIL, {"model": EVIL}, examined[0].outcomes)
    text = page_of(examined, tmp_path)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8
    assert "ValueError: &lt;script&gt;" in text


def test_findings_stand_by_model(shortcut: HFEngine, two_ds: Task, tmp_path: Path) -> None:
    shared = "the sky is blue"
    first = run(shortcut, two_ds, tmp_path, small(Finding(shared, "very", True)), name="one")
    second = run(
        shortcut,
        two_ds,
        tmp_path,
        small(Finding(shared, "not at all", False), Finding("own claim", "unclear", None)),
        name="two",
    )
    text = page_of([first, second], tmp_path)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", text, re.DOTALL)
    blue = next(row for row in rows if shared in row)
    assert re.findall(r'verdict (\w+)">([\w ]+)<', blue) == [
        ("holds", "holds"),
        ("fails", "does not hold"),
    ]
    own = next(row for row in rows if "own claim" in row)
    assert "not measured" in own
    assert "cannot tell" in own


def test_one_failure_keeps_the_others_and_their_files(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    with unchanged(shortcut):
        examined = run(
            shortcut,
            two_ds,
            tmp_path,
            refusing(RuntimeError("out of luck")),
            refusing(MemoryError(), "hungry"),
            small(),
        )
    assert [bool(o.result) for o in examined.outcomes] == [False, False, True]
    assert examined.outcomes[0].problem == "RuntimeError: out of luck"
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        "small.json",
        "small.parquet",
        "small.png",
    }


def test_a_model_that_cannot_be_loaded_says_so(two_ds: Task, tmp_path: Path) -> None:
    def load() -> HFEngine:
        raise CheckpointError("Its weights are damaged; get them again")

    examined = examine("lost", load, two_ds, tmp_path, command=lambda *_: "again", limit=6)
    text = page_of([examined], tmp_path)
    assert text.count("Its weights are damaged; get them again") == len(INSTRUMENTS)
    assert "No instrument finished" in text


def test_a_folder_that_cannot_be_written_stops_everything(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("a file")
    with pytest.raises(OutputError, match="give another folder"):
        run(shortcut, two_ds, tmp_path, small(), name="one")


def test_an_instrument_with_pictures_of_its_own_gets_no_questions(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    given: list[Subject] = []

    def look(subject: Subject) -> Result:
        given.append(subject)
        return Small(engine=subject.engine.describe())

    run(shortcut, two_ds, tmp_path, Instrument("own", None, look), Instrument("ours", 6, look))
    assert [len(subject.samples) for subject in given] == [0, 6]
    assert ["task" in subject.settings for subject in given] == [False, True]
    assert {subject.folder for subject in given} == {tmp_path / "one"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or name one in CHROMIUM")
    browser = Browser(chromium)
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_asks_for_nothing(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.resize(width, dark=dark)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.problems() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [
        page.resolve().as_uri()
    ]
    drawn = "[...document.images].every(i => i.complete && i.naturalWidth > 500)"
    assert browser.evaluate(drawn)
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert page.name == PAGE
