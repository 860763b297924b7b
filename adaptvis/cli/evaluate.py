"""`adaptvis eval`: models on tasks under steering methods."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptvis.cli.console import note, out
from adaptvis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptvis.cli.models import Model
    from adaptvis.evaluation import Plan, Run
    from adaptvis.evaluation.summary import Summary

__all__ = ["evaluate_command"]

DEFAULT_OUTPUT = Path("adaptvis-results")
DEFAULT_TASKS = ("2ds", "2ds-prior-balanced", "2ds-prior-conflicting")
PLOT = "accuracy_by_objects.png"


def evaluate_command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model folder, hub id (org/name) or embedded model. Repeatable. "
            "Default: the two embedded ones.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="Task name (see adaptvis tasks), a .jsonl file of your own or a 2DS .parquet "
            "file. Repeatable. Default: 2ds, 2ds-prior-balanced, 2ds-prior-conflicting.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="baseline, scalingvis, adaptvis (the model's tuned settings), a JSON "
            "configuration, or a .json/.yaml file. Repeatable; gains are over the first. "
            "Default: all three.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting by name: stored with the model, or published, for example "
            "adaptvis-controlled_a; or a file that adaptvis tune wrote, such as adaptvis.yaml or "
            "adaptvis.json:adaptvis. Repeatable.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the model: hf (transformers) or vllm.")
    ] = "hf",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Questions per batch. Default: 300 for embedded models, 16 for others.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Only so many questions of each task, from images drawn with a fixed seed."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for records.jsonl, summary.json and the plot. "
            "Default: adaptvis-results, or the next free adaptvis-results-2, -3, ...",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the interrupted run in the output folder.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap intervals.")] = 0,
    examples: Annotated[int, typer.Option(help="Show so many answers that changed.")] = 5,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Evaluate models on tasks, unsteered and steered, with intervals.

    Without options: the two embedded models (one converged, one that learned a text shortcut) on
    2DS and on scenes whose answers ignore or contradict the shortcut, with the settings tuned on
    validation data. Takes less than three minutes on two CPU cores.

    Every answer goes to records.jsonl as it is given: an interrupted run is finished with --resume
    and ends in the same records. Accuracies come with 95 % Wilson intervals; gains are paired per
    question, with intervals clustered by image.

    Examples:

    * `adaptvis eval --limit 300`
    * `adaptvis eval -m llava-hf/llava-1.5-7b-hf -t mine.jsonl --dtype bfloat16`
    * `adaptvis eval --engine vllm -m llava-hf/llava-1.5-7b-hf -t mine.jsonl`
    * `adaptvis eval --method baseline --method '{"method": "scalingvis", "alpha": 2}'`
    """
    from adaptvis.cli.methods import methods_for
    from adaptvis.cli.models import CONVERGED, SHORTCUT, check_engine, load_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.evaluation import ModelPlan, Plan, evaluate
    from adaptvis.evaluation.output import check_output
    from adaptvis.tasks import get_task

    check_engine(engine, dtype)
    if examples < 0:
        raise ConfigError(f"The number of examples must not be negative, got {examples}")
    tasks = tuple(get_task(name) for name in task or DEFAULT_TASKS)
    models = [resolve_model(text) for text in model or (CONVERGED, SHORTCUT)]
    plan = Plan(
        models=tuple(
            ModelPlan(m.name, m.source, methods_for(m, method or (), preset or ())) for m in models
        ),
        tasks=tasks,
        batch_size=_default_batch_size(models) if batch_size is None else batch_size,
        limit=limit,
        seed=seed,
        settings=(("engine", engine), ("dtype", dtype)),
    )
    folder = output or _default_output(resume)
    check_output(folder, resume=resume)

    started = time.monotonic()
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
    _report(plan, run, folder, examples, time.monotonic() - started)


def _default_batch_size(models: "Sequence[Model]") -> int:
    from adaptvis.cli.models import embedded_models

    return 300 if all(model.name in embedded_models() for model in models) else 16


def _default_output(resume: bool) -> Path:
    from adaptvis.evaluation.output import fresh_folder

    if not resume:
        return fresh_folder(DEFAULT_OUTPUT)
    newest, number = DEFAULT_OUTPUT, 2
    while (candidate := DEFAULT_OUTPUT.with_name(f"{DEFAULT_OUTPUT.name}-{number}")).is_dir():
        newest, number = candidate, number + 1
    return newest


def _report(plan: "Plan", run: "Run", folder: Path, examples: int, seconds: float) -> None:
    from adaptvis.evaluation.output import RECORDS, SUMMARY
    from adaptvis.evaluation.plots import plot_object_counts
    from adaptvis.evaluation.summary import summarise, write_summary
    from adaptvis.evaluation.tables import examples_table, overview_table, plain, report

    summary = summarise(run.records, seed=plan.seed)
    write_summary(summary, folder, run=plan.to_dict(), engines=run.engines)
    plotted = plot_object_counts(summary, folder / PLOT)
    console = out()
    for model, task in summary.pairs():
        console.print(report(summary, model, task))
    if examples and (table := examples_table(run.records, examples)).row_count:
        console.print(table)
    console.print(_settings(plan))
    console.print(overview_table(summary))
    for line in _unsteered(plan, summary):
        note(line)
    files = [RECORDS, SUMMARY, *([PLOT] if plotted else [])]
    console.print(
        f"{len(run.records)} answers in {seconds:.0f} s. Written to ",
        plain(str(folder), 500),
        "/: ",
        ", ".join(files),
        sep="",
        soft_wrap=True,
    )


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
