"""Progress on stderr: bars, shown from the first finished batch on, and a spinner."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.text import Text

from adaptvis.cli.console import progress_console

__all__ = ["Bars", "working"]


def working(doing: str) -> Status:
    """A context manager: on a terminal, a spinner beside what takes a while; gone at its end."""
    return Status(Text(doing), console=progress_console())


class Bars:
    """One bar per name; a context manager that leaves them standing.

    None is shown before the first batch is done: an error before it is a single line.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=progress_console(),
        )
        self._ids: dict[str, TaskID] = {}

    def show(self, name: str, done: int, total: int) -> None:
        """Move the bar of that name, which appears with its first batch."""
        self._bars.start()
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._ids[name], completed=done)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ids:
            self._bars.stop()
