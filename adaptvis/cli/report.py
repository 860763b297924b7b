"""`adaptvis report`: the HTML report of a finished run."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from adaptvis.cli.console import note, out

__all__ = ["report"]


def report(
    folder: Annotated[
        Path, typer.Argument(help="The folder that adaptvis eval wrote.", show_default=False)
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="Where to reopen pictures: the .jsonl or .parquet file that was evaluated. "
            "Repeatable. Tasks that adaptvis tasks lists need none.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the task's published files, or hf:org/name, where it is not any "
            "more what --data of adaptvis eval was.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Shown per model, task, method and direction.")] = 8,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write report.html again: tables, charts, and examples that changed, in one file.

    The folder holds everything but the pictures, which are reopened from the task.

    Examples:

    * `adaptvis report adaptvis-results --open`
    * `adaptvis report adaptvis-results -t mine.jsonl`
    * `adaptvis report adaptvis-results --data /new/place/pope`
    """
    from adaptvis.evaluation.report import rebuild_report
    from adaptvis.evaluation.tables import plain
    from adaptvis.tasks import TASKS, get_task

    # A listed task is found by its name in run.json, with the data and split of the run.
    files = [get_task(name) for name in task or () if name not in TASKS]
    path = rebuild_report(folder, tasks=files, data=data, examples=examples)
    out().print("Written to ", plain(str(path), 500), sep="", soft_wrap=True)
    if show and not webbrowser.open(path.resolve().as_uri()):
        note(f"no browser was found; open {path} yourself")
