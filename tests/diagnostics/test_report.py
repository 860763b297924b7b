"""The page: every model and instrument in its place, whatever fails, and nothing unescaped."""

import json
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from diagnostics.conftest import unchanged
from evaluation.browser import Browser, find_chromium

from adaptvis.config import NormRescale, SteeringConfig
from adaptvis.data.relation_pairs import relation_pairs
from adaptvis.diagnostics.amplification import AmplificationResult
from adaptvis.diagnostics.attention.result import AttentionResult
from adaptvis.diagnostics.choice import spread
from adaptvis.diagnostics.drawing import new_figure
from adaptvis.diagnostics.interchange import measure_interchange
from adaptvis.diagnostics.norms import NormsResult
from adaptvis.diagnostics.probes import measure_probes
from adaptvis.diagnostics.report import (
    INSTRUMENTS,
    PAGE,
    Examined,
    Instrument,
    Outcome,
    Subject,
    examine,
    write_page,
)
from adaptvis.diagnostics.report.across import across_models
from adaptvis.diagnostics.results import Finding, Result, write_result
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


def run(
    engine: HFEngine,
    task: Task,
    folder: Path,
    *instruments: Instrument,
    name: str = "one",
    limit: int = 6,
    config: SteeringConfig | None = None,
    outcomes: list[Outcome] | None = None,
) -> Examined:
    return examine(
        name,
        lambda: engine,
        task,
        folder / name.replace("/", "-"),
        command=lambda i, count: (
            f"adaptvis diagnose {' '.join(i.command or (i.name,))} --limit {count}"
        ),
        instruments=instruments,
        config=config,
        batch_size=32,
        limit=limit,
        outcomes=outcomes,
    )


def page_of(examined: list[Any], folder: Path) -> str:
    path = write_page(examined, folder, command=f"adaptvis diagnose report {EVIL}", about={"a": 1})
    return path.read_text(encoding="utf-8")


def fast(instrument: Instrument) -> Instrument:
    """The same with few pictures of its own, so that the page's tests stay quick."""
    few: dict[str, Callable[[Subject], Result]] = {
        "interchange": lambda s: measure_interchange(s.engine, pairs=2, **s.options),
        "probes": lambda s: measure_probes(s.engine, **s.options),
    }
    return replace(instrument, run=few.get(instrument.name, instrument.run))


@pytest.fixture(scope="module")
def page(shortcut: HFEngine, two_ds: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All instruments on one question, with one that fails; a second model has few of them."""
    folder = tmp_path_factory.mktemp("report")
    broken = refusing(UnsupportedError("This model has no such thing; use another"))
    everything = [fast(i) for i in INSTRUMENTS]
    examined = [
        run(shortcut, two_ds, folder, *everything, broken, name="one", limit=1),
        run(shortcut, two_ds, folder, everything[0], broken, name="two", limit=1),
    ]
    return write_page(examined, folder, command="adaptvis diagnose report", about={"seed": 0})


def test_every_instrument_has_its_picture_reading_and_command(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    measured = 0
    for instrument in INSTRUMENTS:
        assert f'<section id="{instrument.name}">' in text
        path = page.parent / "one" / f"{instrument.name.replace('-', '_')}.json"
        if instrument.name != "amplification":
            record = json.loads(path.read_text())
            assert record["source"] in text
            measured += 1
    assert text.count("data:image/png;base64,") == measured + 1
    assert text.count("adaptvis diagnose norms --limit 1") == 2
    assert text.count("adaptvis diagnose attention --limit 1") == 2
    assert text.count("adaptvis diagnose probes --amplify --alphas 1,3,8") == 1
    # A source stands once per instrument, not in every row.
    claims = text[text.index('<section id="findings">') : text.index('<section id="norms">')]
    assert claims.count("Beyond Semantics, section 4.1 and figure 3") == 1
    assert text.count("Not measured. This model has no such thing; use another") == 2
    # The quick probes above fit no directions.
    assert "There is nothing to amplify" in text


def test_amplification_asks_what_its_command_asks(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    amplification = next(i for i in INSTRUMENTS if i.name == "amplification")
    assert (amplification.questions or 0) >= 60
    config = NormRescale(target=2.0)
    examined = run(shortcut, two_ds, tmp_path, amplification, config=config, limit=2)
    # What it needs was run before it, under the report's steering; itself without.
    assert [o.instrument for o in examined.outcomes] == ["probes", "amplification"]
    probes, result = (o.result for o in examined.outcomes)
    assert probes is not None
    assert isinstance(result, AmplificationResult)
    assert probes.settings["steering"] == config.to_dict()
    assert result.settings["steering"] is None
    assert result.settings["task"] == "2ds, relations both ways"
    assert (result.settings["questions_per_item"], result.settings["images"]) == (2, 2)
    drawn = relation_pairs("test", 2, 0)
    assert list(result.images) == [sample.image_id for sample in drawn[::2]]
    for outcome in examined.outcomes:
        assert outcome.result is not None
        write_result(outcome.result, tmp_path / "again")
    # It is sent to others: where the files lie is not theirs to know.
    for path in (tmp_path / "again").glob("*.json"):
        assert str(tmp_path) not in path.read_text()
    assert str(tmp_path) not in page_of([examined], tmp_path)


def test_maps_are_of_the_questions_that_the_command_shows() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]


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


def test_models_are_compared_in_one_row() -> None:
    def model(name: str, ratio: float, entropy: float) -> Examined:
        norms = NormsResult(
            engine={},
            inputs={g: np.ones(3, np.float32) for g in ("image tokens", "embedding table")},
            ratio={"value": ratio, "low": None, "high": None, "images": 1},
            layers=[],
        )
        asked = tuple((f"q{n}", f"image{n}", entropy + 0.01 * n) for n in range(40))
        attention = AttentionResult(engine={}, means=(), tokens={}, images=40, text_entropies=asked)
        return Examined(
            name, {}, [Outcome("norms", "", norms), Outcome("attention", "", attention)]
        )

    models = [model("my-normalize", 1, 0.9), model("my-original", 30, 0.7)]
    found = across_models(models)
    assert [(name, finding.holds) for name, finding in found] == [
        ("attention", None),
        ("norms", None),
    ]
    assert "my-normalize - my-original = +0.200" in found[0][1].measured
    assert "my-normalize 1, my-original 30" in found[1][1].measured
    models.append(model("my-multilayer", 2, 0.6))
    assert [(name, finding.holds) for name, finding in across_models(models)] == [
        ("attention", True),
        ("norms", None),
    ]
    assert across_models(models[:1]) == []


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


def test_no_number_is_lost_by_a_picture_or_by_nan(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    class Undrawable(Small):
        def summary(self) -> dict[str, Any]:
            return {"half": 0.5, "lost": float("nan"), "far": [1.0, float("inf")]}

        def rows(self) -> list[dict[str, Any]]:
            return [{"half": 0.5, "lost": float("nan")}]

        def figure(self) -> Any:
            raise ValueError("nothing to draw")

    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "small.png").write_bytes(b"of an earlier run")
    made = Instrument("small", 6, lambda s: Undrawable(engine={}))
    with pytest.warns(UserWarning, match="small could not be drawn.*nothing to draw"):
        examined = run(shortcut, two_ds, tmp_path, made)
    record = json.loads((tmp_path / "one" / "small.json").read_text())
    assert record["summary"] == {"half": 0.5, "lost": None, "far": [1.0, None]}
    table = pq.read_table(tmp_path / "one" / "small.parquet").to_pylist()
    assert table == [{"half": 0.5, "lost": None}]
    assert not (tmp_path / "one" / "small.png").exists()
    text = page_of([examined], tmp_path)
    assert "The picture could not be drawn" in text
    assert "Read it &amp; weep" in text
    assert '<td class="number">nan' not in text


def test_an_interrupt_leaves_what_finished(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path
) -> None:
    outcomes: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        run(
            shortcut,
            two_ds,
            tmp_path,
            small(),
            refusing(KeyboardInterrupt()),  # type: ignore[arg-type]
            outcomes=outcomes,
        )
    assert [outcome.instrument for outcome in outcomes] == ["small"]


def test_the_model_is_gone_before_its_memory_is_given_back(
    shortcut: HFEngine, two_ds: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load() -> HFEngine:
        engine = HFEngine(shortcut.model, shortcut.processor, source="again")
        loaded.append(weakref.ref(engine))
        return engine

    gone: list[bool] = []

    def look() -> bool:
        gone.append(loaded[0]() is None)
        return False

    monkeypatch.setattr("adaptvis.diagnostics.report.run.torch.cuda.is_available", look)
    examine(
        "one", load, two_ds, tmp_path, command=lambda *_: "again", instruments=[small()], limit=6
    )
    assert gone == [True]


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
