"""`adaptvis eval`: models on tasks under steering methods."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from adaptvis.cli.console import note
from adaptvis.cli.outputs import default_output
from adaptvis.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from adaptvis.engine import Engine
    from adaptvis.tasks import Part, Prompts

__all__ = ["evaluate_command"]

DEFAULT_OUTPUT = Path("adaptvis-results")
DEFAULT_TASKS = ("2ds", "2ds-prior-balanced", "2ds-prior-conflicting")


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
            "adaptvis-controlled_a (the paper's rule) or adaptvis-controlled_a-reference (what the "
            "authors' code does: confidence rounded, on VSR a raw logit compared); or a file that "
            "adaptvis tune wrote, such as adaptvis.yaml or adaptvis.json:adaptvis. Repeatable.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the model: hf (transformers) or vllm.")
    ] = "hf",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_size: Annotated[
        str | None,
        typer.Option(
            help="Questions per batch, or auto; halved when memory does not suffice. "
            "Default: 300 for embedded models, auto for others.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="Questions of the task: validation, test or all. Published figures of POPE, GQA, "
            "VQAv2, CV-Bench and MMVP are over all: their official test sets are whole; test "
            "leaves out the fifth that adaptvis tune chooses on."
        ),
    ] = "test",
    prompts: Annotated[
        str,
        typer.Option(help="chat (the model's chat template) or raw (the published prompt)."),
    ] = "chat",
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the task's published files, or hf:org/name. Default: what "
            "adaptvis tasks NAME says.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="How validation and test are drawn where they were not published: reference "
            "(single questions) or grouped (whole images, pairs or sets). Default: the "
            "benchmark's own way.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="At most so many questions of each task, from images drawn with a fixed seed: "
            "the same ones every time, and not the file's first. Default: every question.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for records.jsonl, summary.json, report.html and the plot. Default: "
            "adaptvis-results, or the next free adaptvis-results-2, -3, ...; with --resume the "
            "last one.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Finish the interrupted run in the output folder; repeat its other options.",
        ),
    ] = False,
    max_errors: Annotated[
        str,
        typer.Option(
            help="Stop when more questions of a task than this cannot be asked (an image cannot "
            "be read): a share such as 5%, or a number.",
        ),
    ] = "5%",
    shard: Annotated[
        str | None,
        typer.Option(help="Ask only part I of N, as I/N, for one of N machines."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a shard. Repeatable: with the options of the shards, and one --merge "
            "for each of them, put them together instead of asking a model.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="Where the model runs: local, or ray (a Ray cluster's workers).")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="An existing Ray cluster. Default: one on this machine.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Copies of the model on the Ray cluster. Default: one per GPU, or per CPU core.",
            show_default=False,
        ),
    ] = None,
    scoring: Annotated[
        str,
        typer.Option(
            help="Rule of the headline figures: reference (each task's published one) or strict; "
            "both are recorded."
        ),
    ] = "reference",
    attention: Annotated[
        bool,
        typer.Option(
            "--attention/--no-attention",
            help="Show where the model looks in the report's examples: asks the model once more "
            "about them, when all is written. Only with the engine hf and the executor local, and "
            "not when merging.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the random draws of the intervals.")] = 0,
    examples: Annotated[
        int, typer.Option(help="Print so many answers that changed; 0 for none.")
    ] = 5,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Evaluate models on tasks, unsteered and steered, with intervals.

    Without options: the two embedded models (one converged, one that learned a text shortcut) on
    2DS and on scenes whose answers ignore or contradict the shortcut, with the settings tuned on
    validation data. Takes about three minutes on two CPU cores.

    Every answer goes to records.jsonl as it is given: an interrupted run is finished with --resume
    and ends in the same records. Accuracies and gains come with 95 % intervals; gains are paired
    per question. At the end the tables are printed, and report.html shows them with charts,
    calibration, and the answers that changed.

    Examples:

    * `adaptvis eval --limit 300`
    * `adaptvis eval -m llava-hf/llava-1.5-7b-hf -t mine.jsonl --dtype bfloat16`
    * `adaptvis eval --engine vllm -m llava-hf/llava-1.5-7b-hf -t mine.jsonl`
    * `adaptvis eval -m llava-hf/llava-1.5-7b-hf -t pope-popular --data /data/pope --part all`
    * `adaptvis eval --method baseline --method '{"method": "scalingvis", "alpha": 2}'`
    * `adaptvis eval --shard 1/2 -o one`, elsewhere `--shard 2/2 -o two`, and then
      `adaptvis eval --merge one --merge two`
    """
    from adaptvis.cli.evaluation_options import batch_size_of, executor_of, given, tasks_of
    from adaptvis.cli.evaluation_report import report
    from adaptvis.cli.kept_engine import KeptEngine
    from adaptvis.cli.methods import methods_for
    from adaptvis.cli.models import CONVERGED, SHORTCUT, check_engine, load_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.evaluation import ErrorLimit, ModelPlan, Plan, Shard, evaluate
    from adaptvis.evaluation import merge as merge_shards
    from adaptvis.evaluation.output import check_output
    from adaptvis.evaluation.results import SCORINGS

    check_engine(engine, dtype)
    if examples < 0:
        raise ConfigError(f"The number of examples must not be negative, got {examples}")
    if scoring not in SCORINGS:
        raise ConfigError(unknown_name("scoring", scoring, SCORINGS))
    most_errors = ErrorLimit.parse(max_errors)
    running = executor_of(executor, ray_address, workers)
    tasks = tasks_of(task or DEFAULT_TASKS, data=data, split=split)
    models = [resolve_model(text) for text in model or (CONVERGED, SHORTCUT)]
    plan = Plan(
        models=tuple(
            ModelPlan(m.name, m.source, methods_for(m, method or (), preset or ())) for m in models
        ),
        tasks=tasks,
        batch_size=batch_size_of(batch_size, models),
        limit=limit,
        part=cast("Part", part),
        seed=seed,
        prompts=cast("Prompts", prompts),
        shard=Shard.parse(shard) if shard else None,
        settings=given(engine=engine, dtype=dtype, data=data, split=split),
    )
    folder = output or default_output(DEFAULT_OUTPUT, resume=resume)
    check_output(folder, resume=resume)

    def load(planned: ModelPlan) -> "Engine":
        return load_engine(
            planned.source, engine=engine, dtype=dtype, trust_remote_code=trust_remote_code
        )

    # Where shards are merged or the workers are elsewhere, no model fits here for certain.
    here = executor == "local" and not merge
    kept = KeptEngine(load) if attention and engine == "hf" and here else None
    started = time.monotonic()
    try:
        if merge:
            run = merge_shards(plan, merge, folder, resume=resume)
        else:
            with Bars() as bars:
                run = evaluate(
                    plan,
                    kept or load,
                    folder,
                    resume=resume,
                    progress=lambda m, t, done, total: bars.show(f"{m}  {t}", done, total),
                    max_errors=most_errors,
                    executor=running,
                )
        report(
            plan,
            run,
            folder,
            examples,
            time.monotonic() - started,
            scoring=SCORINGS[SCORINGS.index(scoring)],
            engines=kept,
        )
    except KeyboardInterrupt:
        note(f"interrupted; finish with the same options and --resume --output {folder}")
        raise typer.Exit(130) from None
