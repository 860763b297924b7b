"""`adaptvis reproduce`: run a published row and print our figures beside the published ones."""

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from adaptvis.cli.console import note, out
from adaptvis.cli.evaluation_options import tasks_of
from adaptvis.cli.outputs import default_output
from adaptvis.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from adaptvis.evaluation import Record, Run
    from adaptvis.evaluation.published import Published
    from adaptvis.evaluation.reproduction import Comparison
    from adaptvis.tasks import Part, Prompts, Task

__all__ = ["reproduce"]

DEFAULT_OUTPUT = "adaptvis-reproduction"
COMPARISON = "comparison.json"


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="Row to run, such as adaptvis-llava-1.5-controlled_a.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show every row, and why some cannot be run.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Another checkpoint than the published one: folder, hub id or embedded model.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the task's published files, or hf:org/name.", show_default=False
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="validation, test or all. Default: as the row says.", show_default=False),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="raw (the published prompt) or chat. Default: as the row says.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the model: hf (transformers) or vllm.")
    ] = "hf",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16 or float16. Default: as the row says.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 16,
    limit: Annotated[int | None, typer.Option(help="Only so many questions.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=f"Folder for the records and {COMPARISON}. "
            f"Default: {DEFAULT_OUTPUT}-NAME, or the next free one; with --resume the last one.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the interrupted run in the output folder.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Run a row of the papers' tables again: published checkpoint, settings, prompts and scoring.

    A steered row runs the unsteered model too, from the same prefill. Our figures come with 95 %
    intervals, and with what is known to differ from the published run.

    Examples:

    * `adaptvis reproduce --list`
    * `adaptvis reproduce adaptvis-llava-1.5-controlled_a --data /data/whatsup`
    """
    if listing or name is None:
        _list()
        return
    from adaptvis.cli.models import check_engine, load_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.evaluation import Method, ModelPlan, Plan, evaluate
    from adaptvis.evaluation.output import check_output
    from adaptvis.evaluation.published import published_row
    from adaptvis.tasks import PARTS, PROMPTS

    row = published_row(name)
    dtype = dtype or row.dtype
    check_engine(engine, dtype)
    for kind, value, known in (("part", part, PARTS), ("prompts", prompts, PROMPTS)):
        if value is not None and value not in known:
            raise ConfigError(unknown_name(kind, value, known))
    if model is None and row.model is None:
        raise ConfigError(f"The row {name} names no checkpoint; give one with --model")
    if data is None and row.needs_data:
        raise ConfigError(
            f"The row {name} is of the published questions of {row.task}, and without --data they "
            "would be generated; give their folder or hf:org/name"
        )
    (task,) = tasks_of([row.task], data=data)
    resolved = resolve_model(model or str(row.model))
    methods = [Method("baseline")]
    if row.config is not None:
        methods.append(Method(row.config.method, row.config))
    plan = Plan(
        models=(ModelPlan(resolved.name, resolved.source, tuple(methods)),),
        tasks=(task,),
        batch_size=batch_size,
        limit=limit,
        part=cast("Part", part or row.part),
        seed=seed,
        prompts=cast("Prompts", prompts or row.prompts),
        settings=(("row", name), ("engine", engine), ("dtype", dtype)),
    )
    folder = output or default_output(Path(f"{DEFAULT_OUTPUT}-{name}"), resume=resume)
    check_output(folder, resume=resume)
    try:
        with Bars() as bars:
            run = evaluate(
                plan,
                lambda m: load_engine(
                    m.source, engine=engine, dtype=dtype, trust_remote_code=trust_remote_code
                ),
                folder,
                resume=resume,
                progress=lambda m, t, done, total: bars.show(f"{m}  {t}", done, total),
            )
    except KeyboardInterrupt:
        note(f"interrupted; finish with the same options and --resume --output {folder}")
        raise typer.Exit(130) from None
    _report(row, plan, run, task, folder)


def _report(row: "Published", plan: Any, run: "Run", task: "Task", folder: Path) -> None:
    from adaptvis.evaluation.output import write_atomically
    from adaptvis.evaluation.reproduction import ACCURACY, compare
    from adaptvis.evaluation.statistics import paired_gain
    from adaptvis.evaluation.tables import plain, points

    records: dict[str, list[Record]] = defaultdict(list)
    first_error = ""
    for record in run.records:
        if record.error:
            first_error = first_error or record.error
        else:
            records[record.method].append(record)
    if not records:
        raise DataError(
            f"No question of the task {task.name} could be asked, so there is nothing to compare "
            f"with the row {row.name}; mend the data and run it again into another --output; the "
            f"first error: {first_error}"
        )
    comparisons = compare(row, records, task, seed=plan.seed)
    differences = [*_differences(row, plan), *_missing_questions(task)]
    write_atomically(
        folder / COMPARISON,
        json.dumps(
            {
                "row": row.name,
                "source": row.source,
                "certainty": row.certainty,
                "comparisons": [c.to_dict() for c in comparisons],
                "differs": differences,
                "notes": list(row.notes),
            },
            indent=1,
        )
        + "\n",
    )
    console = out()
    console.print(_table(row, comparisons))
    if row.config is not None:
        baseline, steered = records["baseline"], records[row.config.method]
        gain = paired_gain(
            [r.score for r in steered],
            [r.score for r in baseline],
            [r.image_id for r in steered],
            seed=plan.seed,
        )
        console.print(f"Our paired gain in {ACCURACY}: {points(gain)}: {gain.verdict}")
        console.print(plain(f"Settings: {row.config.to_json()}", 500), soft_wrap=True)
    for text in differences:
        note(f"not the published run: {text}")
    for text in row.notes:
        note(text)
    console.print("Written to ", plain(str(folder), 500), "/", sep="", soft_wrap=True)


def _table(row: "Published", comparisons: "list[Comparison]") -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from adaptvis.evaluation.tables import plain

    source = row.source + (", from a secondary source" if row.certainty == "secondary" else "")
    table = Table(
        title=Text.assemble((row.name, "bold"), f": {source}"),
        caption="in %; the interval is of ours, 95 %",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for header in ("method", "metric"):
        table.add_column(header)
    for header in ("n", "ours", "interval", "published", "difference"):
        table.add_column(header, justify="right")
    table.add_column("in the interval")
    for c in comparisons:
        theirs = ("", "", "")
        if c.published is not None:
            inside = "yes" if c.agrees else "no"
            theirs = (f"{c.published:.1f}", f"{c.ours - c.published:+.1f}", inside)
        interval = f"{c.low:.1f}-{c.high:.1f}"
        ours = (str(c.questions), f"{c.ours:.1f}", interval)
        table.add_row(plain(c.method), plain(c.metric), *ours, *theirs)
    return table


def _differences(row: "Published", plan: Any) -> list[str]:
    """What of this run is not as the row says."""
    model = plan.models[0]
    settings = dict(plan.settings)
    found = []
    if row.model not in (model.name, model.source):
        found.append(f"model {model.name} instead of {row.model or 'an unnamed checkpoint'}")
    if plan.limit is not None:
        found.append(f"only {plan.limit} questions")
    for what, ours, theirs in (
        ("part", plan.part, row.part),
        ("prompts", plan.prompts, row.prompts),
        ("dtype", settings["dtype"], row.dtype),
    ):
        if ours != theirs:
            found.append(f"{what} {ours} instead of {theirs}")
    return found


def _missing_questions(task: "Task") -> list[str]:
    """Whether a benchmark's files hold another number of questions than were published."""
    from adaptvis.tasks import TASKS
    from adaptvis.tasks.benchmark import Benchmark

    listed = TASKS.get(task.name)
    published = listed.questions if isinstance(listed, Benchmark) else None
    if published is None or (found := len(task.load(part="all"))) == published:
        return []
    return [f"{found} questions in the data instead of {published}"]


def _list() -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from adaptvis.evaluation.published import PUBLISHED

    console = out()
    table = Table(
        title=Text("Rows that can be run: adaptvis reproduce NAME", style="bold"),
        caption="accuracy in %, for VSR exact match / its published F1; * from a secondary source",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("name", no_wrap=True)
    table.add_column("published", justify="right", no_wrap=True)
    table.add_column("settings", no_wrap=True)
    table.add_column("model", no_wrap=True)
    others: dict[str, list[str]] = defaultdict(list)
    for row in PUBLISHED.values():
        values = " / ".join(f"{value:g}" for value in row.values.values())
        values += "*" if row.certainty == "secondary" else ""
        if row.obstacle:
            others[row.obstacle].append(f"{row.name} ({values})")
            continue
        table.add_row(row.name, values, _settings(row), row.model or "give --model")
    console.print(table)
    console.print(Text("Rows that cannot be run", style="bold"))
    for reason, names in others.items():
        console.print(f"\n{reason}:", markup=False)
        console.print("  " + ", ".join(names), markup=False)


def _settings(row: "Published") -> str:
    from adaptvis.config import AdaptVis, ScalingVis

    if isinstance(row.config, AdaptVis):
        c = row.config
        what = "logit " if c.compared == "rounded_logit" else ""
        return f"{c.alpha_low:g} below {what}{c.threshold:g}, else {c.alpha_high:g}"
    return f"{row.config.alpha:g}" if isinstance(row.config, ScalingVis) else ""
