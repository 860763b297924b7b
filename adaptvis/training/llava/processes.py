"""What the training's processes agree on: who writes, and when all have arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState

from adaptvis.errors import AdaptVisError

__all__ = ["first_then_all", "is_first", "processes", "wait"]

Result = TypeVar("Result")


def processes() -> int:
    """Number of training processes, over all nodes."""
    return int(PartialState().num_processes)


def is_first() -> bool:
    """Whether this is the one process that writes and speaks."""
    return bool(PartialState().is_main_process)


def wait() -> None:
    """Until every process is here."""
    PartialState().wait_for_everyone()


def first_then_all(work: Callable[[], Result]) -> Result:
    """Do the work in the first process, then in the others, which find its files.

    A failure of the first is raised by all; the others would wait for it for ever.

    Raises:
        AdaptVisError: as `work` does.
    """
    from accelerate.utils import broadcast_object_list

    if processes() == 1:
        return work()
    failure: list[str | None] = [None]
    result: list[Result] = []
    if is_first():
        try:
            result.append(work())
        except AdaptVisError as error:
            failure = [str(error)]
            broadcast_object_list(failure)
            raise
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise AdaptVisError(failure[0])
    return result[0] if result else work()
