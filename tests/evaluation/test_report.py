"""Summary, tables and the plot."""

import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest
from evaluation.made import failed, record
from evaluation.scripted import ScriptedEngine, plan
from evaluation.test_metrics import mean
from PIL import Image
from rich.console import Console

from adaptvis.errors import OutputError
from adaptvis.evaluation import Record, evaluate
from adaptvis.evaluation.plots import plot_object_counts
from adaptvis.evaluation.report import write_report
from adaptvis.evaluation.results import Torn
from adaptvis.evaluation.summary import Summary, read_summary, summarise, write_summary
from adaptvis.evaluation.tables import (
    examples_table,
    metrics_table,
    overview_table,
    plain,
    report,
)
from adaptvis.tasks.mmvp import mmvp_metrics


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return evaluate(plan(), lambda m: ScriptedEngine(), tmp_path_factory.mktemp("r") / "x").records


@pytest.fixture(scope="module")
def summary(records: list[Record]) -> Summary:
    return summarise(records)


def rendered(*items: object, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    for item in items:
        console.print(item)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_accuracies_count_what_the_records_say(records: list[Record], summary: Summary) -> None:
    for accuracy in summary.accuracies_of("one", "scripted", "category"):
        mine = [
            r.correct
            for r in records
            if (r.model, r.method, r.category) == ("one", accuracy.method, accuracy.group)
        ]
        assert (accuracy.correct, accuracy.questions) == (sum(mine), len(mine))
        assert accuracy.low < accuracy.accuracy < accuracy.high
    (baseline, *_) = summary.accuracies_of("one", "scripted", "all")
    assert baseline.alphas == {"1": 100}
    assert baseline.applied == 0


def test_gains_are_over_the_first_and_the_previous_method(summary: Summary) -> None:
    pairs = [(g.method, g.reference) for g in summary.gains_of("one", "scripted")]
    assert pairs == [
        ("scalingvis", "baseline"),
        ("adaptvis", "baseline"),
        ("adaptvis", "scalingvis"),
    ]
    by_method = {a.method: a.accuracy for a in summary.accuracies_of("one", "scripted", "all")}
    for item in summary.gains_of("one", "scripted"):
        expected = by_method[item.method] - by_method[item.reference]
        assert item.gain.mean == pytest.approx(expected)
        assert item.gain.images == 34


def test_summary_file(tmp_path: Path, records: list[Record], summary: Summary) -> None:
    write_summary(summary, tmp_path, run={"seed": 0}, engines={"one": {"torch": "2"}})
    # a resumed run that needed no engine keeps what the first one said
    write_summary(summary, tmp_path, run={"seed": 0}, engines={})
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["engines"] == {"one": {"torch": "2"}}
    assert {g["verdict"] for g in stored["gains"]} <= {
        "reliable gain",
        "reliable loss",
        "no reliable effect",
        "too few images to tell",
    }
    one_image = summarise([dataclasses.replace(r, image_id="a") for r in records])
    assert math.isinf(one_image.gains[0].gain.standard_error)
    write_summary(one_image, tmp_path, run={}, engines={})
    assert json.loads((tmp_path / "summary.json").read_text())["gains"][0]["standard_error"] is None
    with pytest.raises(OutputError):
        write_summary(summary, tmp_path / "missing", run={}, engines={})


def test_answers_cannot_style_or_break_the_table(records: list[Record]) -> None:
    answer = "[bold red]x[/bold red]\x1b[31mEVIL\x1b[0m\nnext\r\u202e"
    hostile = [
        dataclasses.replace(
            r,
            answer=answer if r.method == "adaptvis" else "left",
            question="[link=http://x]q[/link]",
            category="[blink]c[/blink]" + r.category[-1],
            model="[/]m",
        )
        for r in records
    ]
    text = rendered(
        examples_table(hostile, 3),
        *[report(summarise(hostile), "[/]m", "scripted")],
        overview_table(summarise(hostile)),
    )
    assert "[bold red]x[/bold red]" in text.replace("\n", "")
    assert "[blink]c[/blink]" in text
    assert "\x1b[31mEVIL" not in text
    assert "\x1b[31m[31mEVIL" not in text
    assert not {"\r", "\u202e", "\x07"} & set(text)
    widths = {
        len(line) for line in rendered(examples_table(hostile, 3)).splitlines() if "─" in line
    }
    assert len(widths) == 1


def test_plain_cuts_long_texts_and_keeps_one_line() -> None:
    assert plain("a\nb\tc").plain == "a b c"
    assert plain("x" * 100, 10).plain == "x" * 9 + "…"
    assert plain("\x1b]8;;http://evil\x07click").plain == "]8;;http://evil click"


def test_tables_fit_80_columns(summary: Summary) -> None:
    text = rendered(report(summary, "one", "scripted"), overview_table(summary), width=80)
    assert "no reliable effect" in text or "reliable" in text
    assert "…" not in text


def test_tables_of_metrics_fractions_and_questions_left_out() -> None:
    made = [record(i, score=0.6, correct=True) for i in range(30)]
    made += [record(i, "x", score=0.9, correct=True) for i in range(29)]
    made.append(failed(record(29, "x", answer=""), "broken image"))
    summary = summarise(made, metrics={"t": mean})
    styled = rendered(report(summary, "m", "t"), width=160)
    # Captions wrap at the width of their table.
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", styled).split())
    assert "interval over images" in text
    assert "1 left out: could not be asked" in text
    assert "accuracy" in text
    assert "[+30.0*]" in text
    assert "McNemar p" in text
    assert examples_table(made, 5).row_count == 0


def test_plot_shows_every_model(tmp_path: Path, records: list[Record], summary: Summary) -> None:
    path = tmp_path / "plot.png"
    assert plot_object_counts(summary, path)
    with Image.open(path) as image:
        width, height = image.size
    assert width > 400
    assert height > 700
    uncounted = [dataclasses.replace(r, object_count=None) for r in records]
    assert not plot_object_counts(summarise(uncounted), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_torn_pairs_are_told(tmp_path: Path) -> None:
    made = [
        record(i, correct=True, task="mmvp", tags={"pair": str(i // 2), "pair_size": "2"})
        for i in range(49)
    ]
    summary = summarise(made, metrics={"mmvp": mmvp_metrics})
    assert summary.torn == (Torn("m", "mmvp", 1, 49),)
    shown = " ".join(
        re.sub(r"\x1b\[[0-9;]*m", "", rendered(metrics_table(summary, "m", "mmvp"))).split()
    )
    assert "1 of 49 questions lack their partner" in shown
    assert "use --part all or --split grouped" in shown
    write_summary(summary, tmp_path, run={}, engines={})
    assert read_summary(tmp_path)[0] == summary
    page = write_report(tmp_path, summary, made, run={}, engines={}).read_text(encoding="utf-8")
    assert "1 of 49 questions lack their partner" in page
    whole = summarise(made[:48], metrics={"mmvp": mmvp_metrics})
    assert whole.torn == ()
    assert "partner" not in rendered(metrics_table(whole, "m", "mmvp"))
