"""Where the command line writes: results to stdout, progress and errors to stderr."""

import warnings
from typing import Any

from rich.console import Console

from adaptvis.errors import AdaptVisWarning
from adaptvis.evaluation.tables import plain

__all__ = ["error", "note", "out", "progress_console", "show_warnings_as_notes"]

# Without a terminal (a pipe, a log) rich would wrap at 80 columns and cut tables short.
_WIDTH_WITHOUT_TERMINAL = 110


def out() -> Console:
    """A console on the current stdout."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    )


def progress_console() -> Console:
    """A console on the current stderr."""
    return Console(stderr=True, highlight=False)


def error(message: str) -> None:
    """One sentence on stderr, unstyled inside, never wrapped."""
    _say("error", "bold red", message)


def note(message: str) -> None:
    """Something worth knowing that is no error, on stderr."""
    _say("note", "cyan", message)


def _say(kind: str, style: str, message: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[{style}]{kind}:[/] ", end="")
    console.print(plain(message, longest=2000))


def show_warnings_as_notes() -> None:
    """Print each distinct warning of adaptvis once, as a note."""
    shown: set[str] = set()
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, AdaptVisWarning):
            usual(message, category, *rest, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            note(str(message))

    warnings.simplefilter("always", AdaptVisWarning)
    warnings.showwarning = show
