"""`adaptvis tune`: find a model's settings on validation questions."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from adaptvis.cli.console import note, out
from adaptvis.cli.evaluation_options import given, tasks_of
from adaptvis.cli.outputs import default_output
from adaptvis.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from adaptvis.cli.models import Model
    from adaptvis.config import Rows
    from adaptvis.tasks import Part, Prompts
    from adaptvis.tuning.run import Tuned

__all__ = ["tune"]

DEFAULT_OUTPUT = Path("adaptvis-tuning")


def tune(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model folder, hub id (org/name) or embedded model."),
    ],
    task: Annotated[
        str, typer.Option("--task", "-t", help="Task whose validation part is asked.")
    ] = "2ds",
    alphas: Annotated[
        str | None,
        typer.Option(
            help="Coefficients to try, separated by commas. "
            "Default: 0.5,0.7,0.8,0.9,1,1.1,1.2,1.35,1.5,2,2.5,3",
            show_default=False,
        ),
    ] = None,
    amplify: Annotated[
        Path | None,
        typer.Option(
            help="Tune an amplification of these directions instead: a file that adaptvis "
            "diagnose probes wrote. Tries 1 to 15 where --alphas is not given.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="A selection of layers to try, 'all' or such as 1-3,7. Repeatable. "
            "Default: all; all but the first; the first half; the second half.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option(help="last_prompt_token, generated or text_after_image.")
    ] = "last_prompt_token",
    objective: Annotated[
        str,
        typer.Option(
            help="What to maximise: accuracy, or a metric of the task such as pair_accuracy or f1."
        ),
    ] = "accuracy",
    part: Annotated[
        str, typer.Option(help="Part of the task to choose on: validation, test or all.")
    ] = "validation",
    limit: Annotated[
        int | None,
        typer.Option(help="Only so many questions; fewer than 2000 find unreliable thresholds."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the task's published files, or hf:org/name.", show_default=False
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
    test: Annotated[
        bool,
        typer.Option("--test/--no-test", help="Measure the chosen settings on the test part."),
    ] = True,
    test_limit: Annotated[
        int | None, typer.Option(help="Only so many questions of the test part.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="chat (the model's template) or raw (the published text).")
    ] = "chat",
    engine: Annotated[
        str, typer.Option(help="What runs the model: hf (transformers) or vllm.")
    ] = "hf",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the sweep, the settings, the plot and the test records. Default: "
            "adaptvis-tuning, or the next free adaptvis-tuning-2, -3, ... (with --resume the last "
            "one); the settings then also go to the model's own folder.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Finish the interrupted sweep in the output folder, or choose from a finished "
            "one again (another objective or seed) without asking the model.",
        ),
    ] = False,
    always_steer: Annotated[
        bool,
        typer.Option(
            "--always-steer",
            help="Never settle for alpha 1, and keep both methods in any case: for controls.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the folds and the intervals.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Choose ScalingVis and AdaptVis settings for a model, and measure them on the test part.

    Every validation question is answered once under each coefficient and selection of layers, from
    one shared prefill. AdaptVis candidates recombine those answers: every pair of coefficients with
    every threshold. Of all settings within one standard error of the best, the one closest to no
    steering is taken; a method is kept only where its cross-validated gain is reliable.

    The output folder holds the settings (adaptvis.json; scalingvis.yaml and adaptvis.yaml for
    patch, eval and serve), the sweep, tuning.png and the records of the test.

    Examples:

    * `adaptvis tune -m my-model -t 2ds-prior-balanced --layers all --layers 1-3`
    * `adaptvis tune -m my-model -t 2ds --amplify adaptvis-diagnostics/directions.safetensors`
    * `adaptvis eval -m my-model --method baseline --preset adaptvis-tuning/adaptvis.yaml`
    """
    from adaptvis.cli.models import check_engine, embedded_models, load_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.cli.tune_amplification import tune_amplify
    from adaptvis.steering.amplification import AMPLIFICATION_ALPHAS
    from adaptvis.tuning import DEFAULT_ALPHAS, Grid
    from adaptvis.tuning.amplification import AmplificationPlan
    from adaptvis.tuning.run import TuningPlan
    from adaptvis.tuning.run import tune as run_tuning
    from adaptvis.tuning.store import check_writable

    check_engine(engine, dtype)
    _check_choices(part=part, rows=rows, prompts=prompts)
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")
    if amplify is not None and (engine != "hf" or layers or objective != "accuracy"):
        raise ConfigError(
            "--amplify changes image tokens at the model's input and is tuned for accuracy with "
            "--engine hf; leave --layers, --objective and --engine out"
        )
    (chosen_task,) = tasks_of([task], data=data, split=split)
    resolved = resolve_model(model)
    # What comes with the package stays as it is: the README's figures are made with it.
    embedded = resolved.name in embedded_models()
    loading = partial(
        load_engine,
        resolved.source,
        engine=engine,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    settings = (("engine", engine), ("dtype", dtype))
    folder = output or default_output(DEFAULT_OUTPUT, resume=resume)
    typed = given(data=data, split=split)
    asked = ["-m", model, "-t", task, *(p for name, v in typed for p in (f"--{name}", v))]
    if amplify is not None:
        tune_amplify(
            AmplificationPlan(
                model=resolved.name,
                source=resolved.source,
                task=chosen_task,
                directions=amplify,
                alphas=_numbers(alphas) if alphas else AMPLIFICATION_ALPHAS,
                part=cast("Part", part),
                limit=limit,
                test=test,
                test_limit=test_limit,
                prompts=cast("Prompts", prompts),
                batch_size=batch_size,
                seed=seed,
                always_steer=always_steer,
                settings=settings,
            ),
            loading,
            folder,
            resume=resume,
            asked=asked,
        )
        return
    own_folder = resolved.folder if output is None and not embedded else None
    if own_folder is not None:
        check_writable(own_folder)
    plan = TuningPlan(
        model=resolved.name,
        source=resolved.source,
        task=chosen_task,
        grid=Grid(
            alphas=_numbers(alphas) if alphas else DEFAULT_ALPHAS,
            layers=tuple(_selection(text) for text in layers)
            if layers
            else _default_layers(resolved, trust_remote_code),
            rows=cast("Rows", rows),
        ),
        objective=objective,
        part=cast("Part", part),
        limit=limit,
        test=test,
        test_limit=test_limit,
        prompts=cast("Prompts", prompts),
        batch_size=batch_size,
        seed=seed,
        always_steer=always_steer,
        settings=settings,
    )
    try:
        with Bars() as bars:
            tuned = run_tuning(
                plan,
                loading,
                folder,
                resume=resume,
                also_store_in=own_folder,
                progress=bars.show,
            )
    except KeyboardInterrupt:
        note(f"interrupted; finish with the same options and --resume --output {folder}")
        raise typer.Exit(130) from None
    _report(asked, tuned, own_folder)


def _check_choices(*, part: str, rows: str, prompts: str) -> None:
    from adaptvis.config import Rows as RowsChoice
    from adaptvis.tasks import PARTS, PROMPTS

    for kind, value, known in (
        ("part", part, PARTS),
        ("rows", rows, cast(Any, RowsChoice).__args__),
        ("prompts", prompts, PROMPTS),
    ):
        if value not in known:
            raise ConfigError(unknown_name(kind, value, known))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--alphas takes numbers separated by commas such as 0.5,1,2, got {text!r}"
        ) from None


def _selection(text: str) -> tuple[int, ...] | None:
    from adaptvis.config import ScalingVis, parse_indices

    if text == "all":
        return None
    try:
        indices = parse_indices(text)
    except ValueError as error:
        raise ConfigError(f"--layers: {error}") from None
    return ScalingVis(alpha=1.0, layers=indices).layers


def _default_layers(model: "Model", trust_remote_code: bool) -> tuple[tuple[int, ...] | None, ...]:
    from adaptvis.cli.models import model_config

    config = model_config(model, trust_remote_code)
    count = config.get_text_config().num_hidden_layers
    if count < 2:
        return (None,)
    halves = (tuple(range(1, count)), tuple(range(count // 2)), tuple(range(count // 2, count)))
    return (None, *dict.fromkeys(halves))


def _report(asked: list[str], tuned: "Tuned", own_folder: Path | None) -> None:
    from adaptvis.evaluation.tables import plain
    from adaptvis.presets import MODEL_PRESETS_FILE
    from adaptvis.tuning.run import PLOT
    from adaptvis.tuning.store import preset_names
    from adaptvis.tuning.tables import choice_table, held_out_table, sweep_table

    console = out()
    console.print(sweep_table(tuned.sweep, tuned.objective))
    console.print(choice_table(tuned.selection))
    if tuned.held_out:
        console.print(held_out_table(tuned.held_out))
    for warning in tuned.warnings:
        note(warning)
    names = preset_names(tuned.selection)
    files = ", ".join([MODEL_PRESETS_FILE, *(f"{name}.yaml" for name in names), PLOT])
    console.print(
        "Written to ", plain(str(tuned.folder), 500), "/: ", files, sep="", soft_wrap=True
    )
    if own_folder is not None:
        stored = plain(str(own_folder / MODEL_PRESETS_FILE), 500)
        console.print("The settings also went to ", stored, sep="", soft_wrap=True)
    presets = [part for name in names for part in ("--preset", f"{tuned.folder / name}.yaml")]
    use = shlex.join(["adaptvis", "eval", *asked, "--method", "baseline", *presets])
    console.print(f"Use them: {use}", markup=False, soft_wrap=True)
