"""`adaptvis tune`: find a model's settings on validation questions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from adaptvis.cli.console import note, out
from adaptvis.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from adaptvis.cli.models import Model
    from adaptvis.config import Rows
    from adaptvis.tasks import Part
    from adaptvis.tuning import Selection, Sweep

__all__ = ["tune"]


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
    part: Annotated[
        str, typer.Option(help="Part of the task: validation, or test.")
    ] = "validation",
    limit: Annotated[
        int | None,
        typer.Option(help="Only so many questions; fewer than 2000 find unreliable thresholds."),
    ] = None,
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
            help="Existing folder for adaptvis.json. Default: the model's own folder.",
            show_default=False,
        ),
    ] = None,
    always_steer: Annotated[
        bool,
        typer.Option(
            "--always-steer",
            help="Never settle for alpha 1, and keep both methods in any case: for controls.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the folds and the bootstrap.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Choose ScalingVis and AdaptVis settings for a model, and store them with it.

    Every validation question is answered once under each coefficient and selection of layers, from
    one shared prefill. AdaptVis candidates recombine those answers. Of all settings within one
    standard error of the best, the one closest to no steering is taken; a method is kept only where
    its cross-validated gain is reliable.

    The settings go to adaptvis.json in the model's folder, where adaptvis eval finds them, with
    how they were found.

    Example: `adaptvis tune -m my-model -t 2ds-prior-balanced --layers all --layers 1-3`
    """
    from adaptvis.cli.models import check_engine, load_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.config import Rows as RowsChoice
    from adaptvis.tasks import PARTS, get_task
    from adaptvis.tuning import DEFAULT_ALPHAS, Grid, run_sweep, select, store_presets
    from adaptvis.tuning.store import check_writable, found_by

    check_engine(engine, dtype)
    for kind, value, known in (
        ("part", part, PARTS),
        ("rows", rows, cast(Any, RowsChoice).__args__),
    ):
        if value not in known:
            raise ConfigError(unknown_name(kind, value, known))
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")
    chosen_task = get_task(task)
    resolved = resolve_model(model)
    folder = output or resolved.folder
    if folder is None:
        raise ConfigError(
            f"{model!r} is a hub id; give --output an existing folder for its adaptvis.json"
        )
    check_writable(folder)
    grid = Grid(
        alphas=_numbers(alphas) if alphas else DEFAULT_ALPHAS,
        layers=tuple(_selection(text) for text in layers)
        if layers
        else _default_layers(resolved, trust_remote_code),
        rows=cast("Rows", rows),
    )
    running = load_engine(
        resolved.source, engine=engine, dtype=dtype, trust_remote_code=trust_remote_code
    )

    name = f"{len(grid.layers)} x {len(grid.alphas)} settings"
    with Bars() as bars:
        sweep = run_sweep(
            running,
            chosen_task,
            grid,
            limit=limit,
            part=cast("Part", part),
            batch_size=batch_size,
            progress=lambda done, total: bars.show(name, done, total),
        )
    selection = select(sweep, seed=seed, always_steer=always_steer)
    details = {
        "task": chosen_task.name,
        "source": chosen_task.source,
        "part": part,
        "limit": limit,
        "seed": seed,
        "always_steer": always_steer,
        "engine": {**running.describe(), "model": resolved.name},
    }
    path = store_presets(folder, selection, found_by(selection, sweep, details))
    _report(resolved, sweep, selection, path, in_model_folder=folder == resolved.folder)


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


def _report(
    model: "Model", sweep: "Sweep", selection: "Selection", path: Path, *, in_model_folder: bool
) -> None:
    from adaptvis.evaluation.tables import plain
    from adaptvis.tuning.tables import choice_table, sweep_table

    console = out()
    console.print(sweep_table(sweep))
    console.print(choice_table(selection))
    console.print("Written to ", plain(str(path), 500), sep="", soft_wrap=True)
    if not in_model_folder:
        console.print("Use them with:")
        for config in (selection.scaling, selection.adaptvis):
            console.print(f"  --method '{config.to_json()}'", markup=False, soft_wrap=True)
    if selection.questions < 2000:
        note(
            f"{selection.questions} questions are few for a threshold: 2000 or more are recommended"
        )
