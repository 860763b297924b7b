"""Compiled parts of a model, and passes that should not be compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["run_eagerly"]

_lock = threading.Lock()
# The stance is the process's: passes of several threads share it, and the last one restores it.
_passes = 0
_stance: Any = None


@torch.compiler.disable
def run_eagerly(function: Callable[..., Any], **kwargs: Any) -> Any:
    """Call a function without compiling it or any compiled module that it calls.

    A pass of another shape under other attention would otherwise be compiled layer by layer, fail
    in layers compiled with ``fullgraph=True``, and use up the recompilations that torch allows.
    """
    global _passes, _stance
    with _lock:
        if _passes == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _passes += 1
    try:
        return function(**kwargs)
    finally:
        with _lock:
            _passes -= 1
            if _passes == 0:
                _stance.__exit__(None, None, None)
