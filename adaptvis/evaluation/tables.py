"""Results as terminal tables.

Everything that comes from a model, a data file or a path enters as plain text: markup and control
characters in an answer neither style nor break a table.
"""

import unicodedata
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import Accuracy, PairedGain, Summary
from adaptvis.evaluation.statistics import Gain
from adaptvis.evaluation.summary import failed

__all__ = [
    "accuracy_table",
    "examples_table",
    "gains_table",
    "metrics_table",
    "overview_table",
    "p_value",
    "plain",
    "points",
    "report",
]

_STYLES = {"reliable gain": "green", "reliable loss": "red"}


def plain(text: str, longest: int = 60) -> Text:
    """Text on one line without control characters or markup, cut to `longest` characters."""
    clean = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"} else c for c in text)
    clean = " ".join(clean.split())
    return Text(clean if len(clean) <= longest else clean[: longest - 1] + "…")


def report(summary: Summary, model: str, task: str) -> Group:
    """The accuracy table of one model on one task, with metrics and gains below it."""
    return Group(
        accuracy_table(summary, model, task),
        metrics_table(summary, model, task),
        gains_table(summary, model, task),
    )


def accuracy_table(summary: Summary, model: str, task: str) -> Table:
    """Accuracy in per cent with its 95 % interval: a row per category, a column per method."""
    methods = summary.methods(model, task)
    table = Table(
        title=Text.assemble((f"{plain(model)} on {plain(task)}", "bold")),
        caption=_caption(summary, model, task),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("category")
    table.add_column("n", justify="right")
    for method in methods:
        table.add_column(plain(method), justify="right", no_wrap=len(methods) <= 4)
    for grouping in ("category", "relation", "prior", "all"):
        rows = list(_rows(summary.accuracies_of(model, task, grouping)))
        # A single group would repeat the line of all questions.
        if grouping == "all" or len(rows) > 1:
            if table.row_count:
                table.add_section()
            for row in rows:
                cells = [plain(f"{100 * a.accuracy:.1f}", 8) + _interval(a) for a in row]
                name = plain(row[0].group.replace("_", " "))
                table.add_row(name, str(row[0].questions), *cells)
    table.add_section()
    whole = summary.accuracies_of(model, task, "all")
    strict = summary.scoring == "strict"
    table.add_row(
        Text("published rule" if strict else "strict scoring", style="dim"),
        "",
        *[
            Text(
                f"{100 * (a.reference_accuracy if strict else a.strict_accuracy):.1f}", style="dim"
            )
            for a in whole
        ],
    )
    table.add_row(
        Text("answer is a candidate", style="dim"),
        "",
        *[Text(f"{100 * a.in_candidates:.1f}", style="dim") for a in whole],
    )
    return table


def _caption(summary: Summary, model: str, task: str) -> str:
    kinds = {a.interval for a in summary.accuracies_of(model, task, "all")}
    interval = "interval over images" if "bootstrap" in kinds else "Wilson interval"
    caption = f"accuracy in %, 95 % {interval}"
    if summary.scoring == "strict":
        caption += ", strict scoring"
    for item in summary.left_out:
        if (item.model, item.task) == (model, task):
            caption += f"; {item.questions} left out: {item.reason}"
    return caption


def metrics_table(summary: Summary, model: str, task: str) -> Table | Text:
    """The task's own metrics in per cent: a row per metric, a column per method."""
    metrics = summary.metrics_of(model, task)
    if not metrics:
        return Text()
    methods = summary.methods(model, task)
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="metrics in %, 95 % interval over images or groups of them; in brackets the paired "
        f"gain over {plain(methods[0])}, * where its interval excludes 0"
        + _torn(summary, model, task),
        caption_justify="left",
    )
    table.add_column("metric")
    for method in methods:
        table.add_column(plain(method), justify="right", no_wrap=len(methods) <= 4)
    gains = {
        (g.name, g.method): g
        for g in summary.metric_gains_of(model, task)
        if g.reference == methods[0]
    }
    for name in dict.fromkeys(m.name for m in metrics):
        cells = []
        for method in methods:
            metric = next((m for m in metrics if (m.name, m.method) == (name, method)), None)
            if metric is None:
                cells.append(Text("-"))
                continue
            cell = Text(f"{100 * metric.value:.1f}")
            cell.append(f" ({100 * metric.low:.1f}-{100 * metric.high:.1f})", style="dim")
            if gain := gains.get((name, method)):
                star = "*" if gain.low > 0 or gain.high < 0 else ""
                cell.append(f" [{_signed(100 * gain.difference)}{star}]")
            cells.append(cell)
        table.add_row(plain(name.replace("_", " ")), *cells)
    return table


def _torn(summary: Summary, model: str, task: str) -> str:
    found = [t for t in summary.torn if (t.model, t.task) == (model, task)]
    return "".join(
        f"; {t.torn} of {t.questions} questions lack their partner: pair and set figures are "
        "deflated, or over fewer; use --part all or --split grouped"
        for t in found
    )


def gains_table(summary: Summary, model: str, task: str) -> Table | Text:
    """Paired gains over all questions, in points, with what they amount to in words."""
    gains = summary.gains_of(model, task)
    if not gains:
        return Text()
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    table.add_column("paired gain")
    table.add_column("points (95 %)", justify="right")
    table.add_column("")
    table.add_column("McNemar p", justify="right")
    for item in gains:
        table.add_row(
            Text.assemble(plain(item.method), " over ", plain(item.reference)),
            points(item.gain),
            _verdict(item.gain),
            p_value(item),
        )
    return table


def overview_table(summary: Summary) -> Table:
    """One line per model, task and method: accuracy, gain over the first method, verdict."""
    table = Table(
        title=Text("Overview", style="bold"),
        caption="paired gain over the first method in points, 95 % interval clustered by image",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for header in ("model, task", "method"):
        table.add_column(header)
    table.add_column("accuracy", justify="right")
    table.add_column("gain", justify="right")
    table.add_column("")
    for model, task in summary.pairs():
        methods = summary.methods(model, task)
        gains = {
            g.method: g.gain for g in summary.gains_of(model, task) if g.reference == methods[0]
        }
        names = [plain(model, 26), plain(task, 26)]
        names += [Text()] * max(0, len(methods) - 2)
        accuracies = summary.accuracies_of(model, task, "all")
        for name, a in zip(names, accuracies, strict=False):
            gain = gains.get(a.method)
            table.add_row(
                name,
                plain(a.method, 24),
                f"{100 * a.accuracy:.1f}",
                points(gain) if gain else "",
                _verdict(gain) if gain else "",
            )
        table.add_section()
    return table


def examples_table(records: Sequence[Record], count: int) -> Table:
    """Up to `count` questions that some method answered otherwise than the first method did."""
    table = Table(
        title=Text("Answers that changed", style="bold"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for header in ("question", "right", "before", "after", "method", "alpha"):
        table.add_column(header)
    for before, after in list(_changed(records))[:count]:
        table.add_row(
            plain(before.question, 80),
            plain(" / ".join(before.gold), 30),
            _graded(before),
            _graded(after),
            plain(after.method, 24),
            f"{after.alpha:g}",
        )
    return table


def _changed(records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Pairs of (first method's record, changed record), one of each model and task in turn."""
    first: dict[tuple[str, str, str], Record] = {}
    queues: dict[tuple[str, str, str], list[tuple[Record, Record]]] = {}
    for record in records:
        if failed(record):
            continue
        before = first.setdefault((record.model, record.task, record.id), record)
        if record.answer != before.answer:
            place = (record.model, record.task, record.method)
            queues.setdefault(place, []).append((before, record))
    while queues:
        for place in list(queues):
            yield queues[place].pop(0)
            if not queues[place]:
                del queues[place]


def _graded(record: Record) -> Text:
    text = plain(record.answer, 40)
    text.stylize("green" if record.correct else "red")
    return text


def _rows(accuracies: Sequence[Accuracy]) -> Iterator[list[Accuracy]]:
    groups: dict[str, list[Accuracy]] = {}
    for accuracy in accuracies:
        groups.setdefault(accuracy.group, []).append(accuracy)
    yield from groups.values()


def _interval(accuracy: Accuracy) -> Text:
    return Text(f" ({100 * accuracy.low:.1f}-{100 * accuracy.high:.1f})", style="dim")


def points(gain: Gain) -> str:
    """A gain in percentage points with its interval."""
    mean, low, high = (_signed(100 * value) for value in (gain.mean, gain.low, gain.high))
    return f"{mean} ({low} to {high})"


def p_value(item: PairedGain) -> str:
    """The p-value of McNemar's exact test; a dash where points are fractions."""
    if item.test is None:
        return "-"
    return "< 0.0001" if item.test.p_value < 1e-4 else f"{item.test.p_value:.4f}"


def _signed(value: float) -> str:
    # Rounding can leave -0.0, and +0.0 looks like a gain.
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def _verdict(gain: Gain) -> Text:
    return Text(gain.verdict, style=_STYLES.get(gain.verdict, ""))
