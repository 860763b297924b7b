"""What the subcommands of `adaptvis diagnose` share: their options, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from adaptvis.cli.console import note, out
from adaptvis.errors import ConfigError, OutputError, unknown_name

if TYPE_CHECKING:
    from adaptvis.config import SteeringConfig
    from adaptvis.diagnostics.results import Result
    from adaptvis.hf.engine import HFEngine
    from adaptvis.tasks import Sample, Task

__all__ = [
    "BatchSizeOption",
    "DataOption",
    "DtypeOption",
    "LimitOption",
    "MethodOption",
    "ModelOption",
    "OutputOption",
    "PartOption",
    "PresetOption",
    "SeedOption",
    "TaskOption",
    "TrustRemoteCodeOption",
    "check_numbers",
    "findings_table",
    "finish",
    "load",
    "questions",
    "refuse_held",
    "result_folder",
    "steering",
    "task_of",
]

DEFAULT_OUTPUT = Path("adaptvis-diagnostics")
DEFAULT_MODEL = "tiny-2ds-shortcut-seed1"

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Model folder, hub id (org/name) or embedded model."),
]
TaskOption = Annotated[
    str,
    typer.Option("--task", "-t", help="Task whose questions are asked (see adaptvis tasks)."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="Folder with the task's published files, or hf:org/name.", show_default=False
    ),
]
PartOption = Annotated[str, typer.Option(help="Questions of the task: validation, test or all.")]
LimitOption = Annotated[
    int, typer.Option(help="At most so many questions, from images drawn with a fixed seed.")
]
SeedOption = Annotated[int, typer.Option(help="Of every random draw.")]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Questions at once. Default: 64 for models up to 50 M parameters, 1 for others, "
        "which bounds the memory.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Look at the model under this setting: a name, or a file that adaptvis tune wrote.",
        show_default=False,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        help="Look at the model under this method: scalingvis, adaptvis (the model's tuned "
        "settings), a JSON configuration, or a .json/.yaml file. Default: unsteered.",
        show_default=False,
    ),
]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
TrustRemoteCodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the JSON, Parquet and PNG files. Default: adaptvis-diagnostics, or the "
        "next free adaptvis-diagnostics-2, -3, ...",
        show_default=False,
    ),
]


def check_numbers(seed: int, batch_size: int | None) -> None:
    """Refuse numbers that cannot be.

    Raises:
        ConfigError: a negative seed, or a batch without questions.
    """
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1 question, got {batch_size}")


def load(model: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> HFEngine:
    """The model in the transformers engine, which lets instruments look inside.

    Raises:
        AdaptVisError: the model is unknown, or its files are damaged.
    """
    from adaptvis.cli.models import load_engine, resolve_model
    from adaptvis.cli.progress import working

    resolved = resolve_model(model)
    with working(f"loading {resolved.name}"):
        engine = load_engine(
            resolved.source, engine="hf", dtype=dtype, trust_remote_code=trust_remote_code
        )
    return cast("HFEngine", engine)


def task_of(name: str, data: str | None = None) -> Task:
    """The task of that name.

    Raises:
        ConfigError, DataError: see :func:`adaptvis.tasks.get_task`.
    """
    from adaptvis.cli.evaluation_options import tasks_of

    return tasks_of([name], data=data)[0]


def questions(task: Task, *, part: str = "test", limit: int | None = None) -> list[Sample]:
    """The questions of a part, or ``limit`` of them.

    Raises:
        ConfigError, DataError: see :meth:`adaptvis.tasks.Task.load`.
    """
    from adaptvis.tasks import PARTS

    if part not in PARTS:
        raise ConfigError(unknown_name("part", part, PARTS))
    return task.load(limit, part)


def steering(
    model: str, *, preset: str | None = None, method: str | None = None
) -> SteeringConfig | None:
    """The configuration that --preset or --method means for a model; None for neither.

    Raises:
        ConfigError: both are given, or one is not known.
    """
    from adaptvis.cli.methods import methods_for
    from adaptvis.cli.models import resolve_model

    if preset is not None and method is not None:
        raise ConfigError("--preset and --method both say how the model is steered; give one")
    if preset is None and method is None:
        return None
    methods = methods_for(
        resolve_model(model), [method] if method else [], [preset] if preset else []
    )
    # Presets alone come behind the baseline.
    return methods[-1].config


def result_folder(output: Path | None, *instruments: str) -> Path:
    """The folder that was typed, or the next free default one.

    Raises:
        OutputError: it holds a result of such an instrument, or cannot be written.
    """
    from adaptvis.cli.outputs import default_output
    from adaptvis.evaluation.output import check_output

    if output is None:
        return default_output(DEFAULT_OUTPUT, resume=False)
    # Results of other instruments may stand beside the new ones.
    check_output(output, resume=True)
    refuse_held(output / f"{instrument}.json" for instrument in instruments)
    return output


def refuse_held(paths: Iterable[Path]) -> None:
    """Refuse to replace results, before any work is done.

    Raises:
        OutputError: one of the files is there.
    """
    for path in paths:
        if path.exists():
            raise OutputError(
                f"{path} is there already, and this run would replace it; give another --output"
            )


def finish(result: Result, folder: Path) -> Mapping[str, Path]:
    """Write a result, print its summary, its findings and where the files are.

    Raises:
        OutputError: the folder cannot be written.
    """
    from rich import box
    from rich.table import Table

    from adaptvis.diagnostics.results import write_result
    from adaptvis.diagnostics.wording import flat
    from adaptvis.evaluation.statistics import FEWEST_IMAGES
    from adaptvis.evaluation.tables import plain

    paths = write_result(result, folder)
    console = out()
    model = result.settings.get("model", result.engine["model"])
    console.print(plain(f"{result.title}: {model}", 200), style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("measured")
    table.add_column("value", justify="right")
    for name, value in flat(result.summary()):
        table.add_row(plain(name, 100), plain(value, 100))
    console.print(table)
    findings = result.findings()
    if findings:
        console.print(findings_table(findings))
        images = result.settings.get("images", FEWEST_IMAGES)
        if images < FEWEST_IMAGES:
            note(
                f"a verdict takes at least {FEWEST_IMAGES} images, and these questions are about "
                f"{images}; raise --limit"
            )
    for kind, path in paths.items():
        console.print(f"{kind}: ", plain(str(path), 500), sep="", soft_wrap=True)
    return paths


def findings_table(findings: Any) -> Any:
    """Claims of the papers, and whether they hold for this model."""
    from rich import box
    from rich.table import Table

    from adaptvis.diagnostics.results import verdict
    from adaptvis.evaluation.tables import plain

    styles = {True: "green", False: "red", None: "yellow"}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("claim of the paper")
    table.add_column("this model")
    table.add_column("measured")
    for finding in findings:
        says = plain(verdict(finding.holds))
        says.stylize(styles[finding.holds])
        table.add_row(plain(finding.claim, 300), says, plain(finding.measured, 400))
    return table
