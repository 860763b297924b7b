"""`adaptvis tasks`: what can be evaluated."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from adaptvis.cli.console import out
from adaptvis.errors import ConfigError, unknown_name

__all__ = ["tasks"]


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(help="Say what this task reads and where to get it.", show_default=False),
    ] = None,
) -> None:
    """List the tasks, and how to bring your own; with a NAME, what it reads and where to get it."""
    from adaptvis.tasks import TASKS

    if name is None:
        _list()
    elif name in TASKS:
        console = out()
        console.print(f"{name}: {TASKS[name].description}", markup=False, soft_wrap=True)
        console.print(TASKS[name].instructions(), markup=False, soft_wrap=True)
        if presets := _presets(name):
            console.print(presets, markup=False, soft_wrap=True)
    else:
        raise ConfigError(unknown_name("task", name, TASKS))


def _presets(task: str) -> str:
    from adaptvis.presets import PRESETS, rule_of_the_code

    own = [name for name in PRESETS if name.removesuffix("-reference").endswith(f"vis-{task}")]
    if not own:
        return ""
    return f"Published settings for LLaVA-1.5: --preset {', '.join(own)}.\n" + "\n".join(
        filter(None, map(rule_of_the_code, own))
    )


def _list() -> None:
    from adaptvis.evaluation.tables import plain
    from adaptvis.tasks import TASKS

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    table.add_column("what it asks")
    table.add_column("questions", justify="right")
    table.add_column("data")
    for task in TASKS.values():
        count = "" if task.questions is None else str(task.questions)
        table.add_row(plain(task.name), plain(task.description, 200), count, plain(task.needs))
    console = out()
    console.print(table)
    console.print(
        "Data lie in the folder that ADAPTVIS_DATA names, or are given with --data;\n"
        "[bold]adaptvis tasks NAME[/bold] says what to download and where to put it.\n"
    )
    console.print(
        "Your own: [bold]--task questions.jsonl[/bold], one object per line, images beside it:\n"
    )
    console.print(
        '  {"image": "cup.png", "question": "Where is the cup?", "answer": "left", '
        '"options": ["left", "right"]}',
        markup=False,
        soft_wrap=True,
    )
    console.print(
        "\nOptional per line: images (a list), answers (a list), category, id, object_count, and\n"
        "part (validation or test; adaptvis tune reads validation, adaptvis eval test).\n"
        "The published 2DS file works too: [bold]--task 2ds.parquet[/bold]."
    )
