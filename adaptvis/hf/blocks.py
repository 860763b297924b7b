"""Whether the running code is inside a ``with`` block, in whatever thread, task or generator.

Two things tell. Code below the block's own function on the call stack is inside; that holds for a
generator's later steps as well, which servers run in another thread and another context each time.
And code is inside that runs in the block's context or in a copy of it (``asyncio.to_thread``, a
task that was started in the block); a plain ``threading.Thread`` or executor begins an empty one.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sys
import threading
import weakref
from contextvars import ContextVar
from types import FrameType
from typing import Any

__all__ = ["Block", "frames_of_caller", "strand"]

# Numbers, so that a context that outlives a block keeps nothing of it alive.
_inside: ContextVar[frozenset[int]] = ContextVar("adaptvis_blocks", default=frozenset())
_open: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
_numbers = itertools.count()

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Block:
    """One ``with`` block, from where it is made until ``close``.

    machinery: the module of the context manager; the block belongs to the first function outside
        it, outside contextlib, and outside generators that contextlib runs.
    """

    def __init__(self, machinery: str) -> None:
        self._frame: FrameType | None = _owner(sys._getframe(1), ("contextlib", machinery))
        self._is_generator = bool(self._frame.f_code.co_flags & _GENERATOR)
        self._strand = strand()
        self._number = next(_numbers)
        frames = frames_of_caller()
        self._around = {n for n, b in list(_open.items()) if b.depth(frames) is not None}
        # Blocks that were closed in another context are dropped here.
        _inside.set(frozenset(_open) & _inside.get() | {self._number})
        _open[self._number] = self

    def close(self) -> None:
        """End the block; may run in another context than the one it began in."""
        self._frame = None
        _open.pop(self._number, None)
        _inside.set(_inside.get() - {self._number})

    def depth(self, frames: dict[int, int]) -> int | None:
        """How many calls lie between the running code and the block's function; None: not one of
        its callers."""
        return None if self._frame is None else frames.get(id(self._frame))

    def rivals(self, other: Block) -> bool:
        """Whether both are generators' and neither began in the other: a copy of their context
        does not tell which of the two made it."""
        nested = other._number in self._around or self._number in other._around
        return self._is_generator and other._is_generator and not nested

    def holds(self, frames: dict[int, int]) -> bool:
        """Whether the running code is inside, given :func:`frames_of_caller`."""
        if self.depth(frames) is not None:
            return True
        if self._number not in _inside.get():
            return False
        # A generator between two steps leaves its context to whoever asked it for the next item.
        return not (self._is_generator and self._strand == strand())


def frames_of_caller() -> dict[int, int]:
    """The running functions, by the identity of their frames: how deep each lies below the call."""
    found: dict[int, int] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found[id(frame)] = len(found)
        frame = frame.f_back
    return found


def strand() -> tuple[Any, Any]:
    """The running thread and asyncio task (or None): what cannot run two things at once."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return weakref.ref(threading.current_thread()), None if task is None else weakref.ref(task)


def _owner(frame: FrameType, machinery: tuple[str, ...]) -> FrameType:
    """The function whose block this is, from a frame of the context manager."""
    while frame.f_back is not None:
        caller = frame.f_back
        # A generator that serves as context manager, or as a fixture, is not where its block is.
        drives = caller.f_globals.get("__name__", "").split(".")[0] in ("contextlib", "_pytest")
        if frame.f_globals.get("__name__") not in machinery and not (
            drives and frame.f_code.co_flags & _GENERATOR
        ):
            break
        frame = caller
    return frame
