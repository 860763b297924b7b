"""`adaptvis tasks`: what can be evaluated."""

from rich import box
from rich.table import Table

from adaptvis.cli.console import out

__all__ = ["tasks"]


def tasks() -> None:
    """List the tasks, and how to bring your own."""
    from adaptvis.evaluation.tables import plain
    from adaptvis.tasks import TASKS

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    table.add_column("what it asks")
    for task in TASKS.values():
        table.add_row(plain(task.name), plain(task.description, 200))
    console = out()
    console.print(table)
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
