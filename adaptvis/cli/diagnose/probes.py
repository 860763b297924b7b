"""`adaptvis diagnose probes`."""

from typing import TYPE_CHECKING, Annotated

import typer

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    DataOption,
    DtypeOption,
    MethodOption,
    ModelOption,
    OutputOption,
    PartOption,
    PresetOption,
    SeedOption,
    TaskOption,
    TrustRemoteCodeOption,
    check_numbers,
    finish,
    load,
    refuse_held,
    result_folder,
    steering,
    task_of,
)
from adaptvis.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from adaptvis.diagnostics.choice import Items
    from adaptvis.tasks import Task

__all__ = ["probes"]


def probes(
    model: ModelOption = DEFAULT_MODEL,
    kind: Annotated[
        str, typer.Option(help="Things in the pictures: squares, shapes or objects.")
    ] = "squares",
    training: Annotated[
        str,
        typer.Option(
            help="How directions are fitted: least_squares, or published (200 steps of AdamW)."
        ),
    ] = "least_squares",
    amplify: Annotated[
        bool,
        typer.Option(
            "--amplify",
            help="Also measure a task's accuracy under amplification of the directions, and of "
            "random ones.",
        ),
    ] = False,
    task: TaskOption = "2ds",
    data: DataOption = None,
    part: PartOption = "test",
    limit: Annotated[
        int,
        typer.Option(
            help="With --amplify: items to answer. An item of 2ds is a relation that is asked both "
            "ways, of other tasks a question.",
            min=1,
        ),
    ] = 50,
    alphas: Annotated[
        str, typer.Option(help="With --amplify: coefficients above 0, separated by commas.")
    ] = "1,2,3,5,8,11,15",
    axes: Annotated[
        str | None,
        typer.Option(
            help="With --amplify: horizontal, vertical or both, separated by a comma.",
            show_default="both",
        ),
    ] = None,
    controls: Annotated[
        int, typer.Option(help="With --amplify: sets of random directions beside the probe's.")
    ] = 2,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Pictures or questions at once. Default: 64 for models up to 50 M parameters, "
            "1 for others.",
            show_default=False,
            min=1,
        ),
    ] = None,
    seed: SeedOption = 0,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
) -> None:
    """Whether object tokens tell places linearly; directions to amplify, and what that does.

    Writes directions.safetensors for `{"method": "amplify"}` of `adaptvis eval` and for
    `adaptvis tune --amplify`. Amplification is measured beside random directions of the same norms.

    Examples:

    * `adaptvis diagnose probes -m tiny-2ds-seed1 -o mechanisms`
    * `adaptvis diagnose probes -m tiny-2ds-shortcut-seed1 --amplify --task 2ds --limit 50`
    """
    from adaptvis.cli.models import resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.data.three_objects import KINDS
    from adaptvis.diagnostics.amplification import measure_amplification
    from adaptvis.diagnostics.linear_probe import TRAININGS
    from adaptvis.diagnostics.prefill import fitting_batch
    from adaptvis.diagnostics.probes import DIRECTIONS_FILE, measure_probes

    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    if training not in TRAININGS:
        raise ConfigError(unknown_name("training", training, TRAININGS))
    ladder = _numbers(alphas)
    amplified_axes = _axes(axes)
    if controls < 0:
        raise ConfigError(f"--controls must not be negative, got {controls}")
    check_numbers(seed, batch_size)
    name = resolve_model(model).name
    config = steering(model, preset=preset, method=method)
    if amplify and config is not None:
        raise ConfigError("--amplify measures a method of its own; leave --preset and --method out")
    chosen = _items(task, data, part, limit, seed) if amplify else None
    folder = result_folder(output, "probes", "amplification")
    refuse_held([folder / DIRECTIONS_FILE])
    engine = load(model, dtype=dtype, trust_remote_code=trust_remote_code)
    size = batch_size or fitting_batch(engine)
    with Bars() as bars:
        result = measure_probes(
            engine,
            kind=kind,
            directions=folder / DIRECTIONS_FILE,
            training=training,
            config=config,
            batch_size=size,
            seed=seed,
            settings={"model": name},
            progress=bars.show,
        )
    finish(result, folder)
    if chosen is None:
        return
    if not result.directions:
        raise DataError(f"There is nothing to amplify. {result.without_directions}")
    asked, drawn = chosen
    with Bars() as bars:
        amplification = measure_amplification(
            engine,
            folder / DIRECTIONS_FILE,
            asked,
            drawn.samples,
            items=drawn.items,
            alphas=ladder,
            axes=amplified_axes,
            controls=controls,
            batch_size=size,
            seed=seed,
            settings={"model": name, "task": drawn.name},
            progress=bars.show,
        )
    finish(amplification, folder)


def _items(task: str, data: str | None, part: str, limit: int, seed: int) -> "tuple[Task, Items]":
    from adaptvis.diagnostics.choice import amplification_items
    from adaptvis.tasks import PARTS

    if part not in PARTS:
        raise ConfigError(unknown_name("part", part, PARTS))
    chosen = task_of(task, data)
    drawn = amplification_items(
        chosen, part=part, limit=limit, seed=seed, published=data is not None
    )
    return chosen, drawn


def _axes(text: str | None) -> tuple[str, ...] | None:
    from adaptvis.diagnostics.probes import AXES

    if text is None:
        return None
    axes = tuple(dict.fromkeys(axis.strip() for axis in text.split(",")))
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(unknown_name("axis", axis, AXES))
    return axes


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 100 for value in values):
        raise ConfigError(
            f"--alphas takes numbers above 0 and at most 100 such as 1,5,15, got {text!r}"
        )
    return values
