"""What `adaptvis eval` prints and writes when every question was asked."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adaptvis.cli.console import note, out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from adaptvis.attention_map import AnswerKey, AttentionMap
    from adaptvis.cli.kept_engine import KeptEngine
    from adaptvis.evaluation import Plan, Record, Run
    from adaptvis.evaluation.failures import Failures
    from adaptvis.evaluation.results import Scoring
    from adaptvis.evaluation.summary import Summary
    from adaptvis.tasks import Sample

__all__ = ["report"]

PLOT = "accuracy_by_objects.png"


def report(
    plan: "Plan",
    run: "Run",
    folder: Path,
    examples: int,
    seconds: float,
    *,
    scoring: "Scoring" = "reference",
    engines: "KeptEngine | None" = None,
) -> None:
    """Print the tables and write `summary.json`, `report.html` and the plot.

    Args:
        examples: how many answers that changed are printed.
        seconds: how long the run took.
        scoring: the headline rule.
        engines: the models, for the attention maps of the report's examples; None leaves them
            out.

    Raises:
        OutputError: a file cannot be written.
    """
    from adaptvis.cli.progress import working
    from adaptvis.evaluation.environment import mixed_image_processors
    from adaptvis.evaluation.failures import count_failures
    from adaptvis.evaluation.output import RECORDS, SUMMARY
    from adaptvis.evaluation.plots import plot_object_counts
    from adaptvis.evaluation.summary import summarise, write_summary
    from adaptvis.evaluation.tables import examples_table, overview_table, plain
    from adaptvis.evaluation.tables import report as table_of

    with working("summarising"):
        summary = summarise(
            run.records,
            seed=plan.seed,
            scoring=scoring,
            metrics={task.name: task.metrics for task in plan.tasks if task.metrics is not None},
        )
        failures = count_failures(run.records)
        write_summary(summary, folder, run=run.configuration, engines=run.engines, errors=failures)
        plotted = plot_object_counts(summary, folder / PLOT)
    console = out()
    for model, task in summary.pairs():
        console.print(table_of(summary, model, task))
    changed = _few_changed(run.records, examples)
    if examples and (table := examples_table(changed, examples)).row_count:
        console.print(table)
    console.print(_settings(plan))
    console.print(overview_table(summary))
    mixed = mixed_image_processors(run.engines)
    for line in [*_unsteered(plan, summary), *_failed(failures), *mixed]:
        note(line)
    page = _write_html(plan, run, summary, folder, engines)
    files = [RECORDS, SUMMARY, page.name, *([PLOT] if plotted else [])]
    console.print(
        f"{len(run.records)} answers in {seconds:.0f} s. Written to ",
        plain(str(folder), 500),
        "/: ",
        ", ".join(files),
        sep="",
        soft_wrap=True,
    )


def _write_html(
    plan: "Plan",
    run: "Run",
    summary: "Summary",
    folder: Path,
    engines: "KeptEngine | None",
) -> Path:
    from adaptvis.cli.progress import working
    from adaptvis.evaluation.report import REPORT, write_attention, write_report
    from adaptvis.evaluation.summary import read_summary

    samples = {(name, s.id): s for name, of in run.samples.items() for s in of}
    write = partial(
        write_report,
        folder,
        summary,
        run.records,
        run=run.configuration,
        # A resumed run may have needed no engine: the summary keeps what it said before.
        engines=read_summary(folder)[1],
        open_pictures=lambda record: samples[record.task, record.id].images(),
    )
    # Before a model is asked again, which may fail or be interrupted.
    with working(f"writing {REPORT}"):
        page = write()
    if engines is not None and (maps := _attention(plan, run, summary, samples, engines)):
        write_attention(folder, maps)
        with working(f"writing {REPORT} with attention maps"):
            page = write(attention=maps)
    return page


def _attention(
    plan: "Plan",
    run: "Run",
    summary: "Summary",
    samples: "Mapping[tuple[str, str], Sample]",
    engines: "KeptEngine",
) -> "dict[AnswerKey, AttentionMap]":
    """The maps of the report's examples; none where making them was interrupted."""
    from adaptvis.cli.progress import Bars
    from adaptvis.cli.report_attention import attention_of_examples
    from adaptvis.evaluation.report import changed_answers

    models = {model.name: model for model in plan.models}
    try:
        with Bars() as bars:
            return attention_of_examples(
                changed_answers(run.records, scoring=summary.scoring),
                {(m.name, method.name): method.config for m in plan.models for method in m.methods},
                lambda task, identifier: samples[task, identifier],
                lambda name: engines(models[name]),
                plan.prompts,
                loaded=engines.name,
                progress=lambda done, total: bars.show("attention maps", done, total),
            )
    except KeyboardInterrupt:
        note("interrupted; the run is finished, and its report has no attention maps")
        return {}


def _few_changed(records: "Iterable[Record]", count: int) -> "list[Record]":
    """The records of enough questions for the table of examples, so that not all are held."""
    from adaptvis.evaluation.records import by_question

    found: dict[tuple[str, str, str], int] = {}
    kept: list[Record] = []
    for question in by_question(records):
        first = question[0]
        changed = [r for r in question if r.answer != first.answer]
        places = [(r.model, r.task, r.method) for r in changed]
        if any(found.get(place, 0) < count for place in places):
            kept += question
            found |= {place: found.get(place, 0) + 1 for place in places}
    return kept


def _failed(failures: "Iterable[Failures]") -> "Sequence[str]":
    """A sentence for every model and task with questions that could not be asked."""
    return [
        f"{e.errors} of {e.questions} questions of {e.task} failed with {e.model} and count in no "
        f"accuracy; the field error of records.jsonl says why, first: {e.first}"
        for e in failures
    ]


def _settings(plan: "Plan") -> object:
    """The steering parameters of every method that was run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from adaptvis.evaluation.tables import plain

    table = Table(title=Text("Settings", style="bold"), box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("model", "method", "parameters"):
        table.add_column(header)
    for model in plan.models:
        for method in model.methods:
            if method.config is None:
                continue
            values = method.config.to_dict()
            values.pop("method")
            if values.get("rows") == "last_prompt_token":
                values.pop("rows")
            parameters = ", ".join(f"{k} {_value(v)}" for k, v in values.items())
            table.add_row(plain(model.name), plain(method.name), plain(parameters, 200))
    return table


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _unsteered(plan: "Plan", summary: "Summary") -> "Sequence[str]":
    """A sentence for every method whose steered pass did not run for some questions."""
    steering = {(m.name, method.name) for m in plan.models for method in m.methods if method.config}
    return [
        f"{a.method} was not applied to {1 - a.applied:.0%} of {a.task} ({a.model}); the field "
        "reason of records.jsonl says why"
        for a in summary.accuracies
        if a.grouping == "all" and a.applied < 1 and (a.model, a.method) in steering
    ]
