"""Room on the disk: estimated before the first step, and told when it ran out in between."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptvis.errors import OutputError

__all__ = ["checkpoint_bytes", "full_disk_is_told", "require_room"]

# Two whole checkpoints are kept while a third is written.
_CHECKPOINTS = 3


def checkpoint_bytes(parameters: int, trainable: int) -> int:
    """Float32 weights, and two float32 moments of each trained parameter."""
    return 4 * parameters + 8 * trainable


def require_room(folder: Path, parameters: int, trainable: int) -> None:
    """Refuse to begin what cannot be saved.

    Raises:
        OutputError: less is free than a stage's checkpoints and its model need.
    """
    needed = _CHECKPOINTS * checkpoint_bytes(parameters, trainable) + 4 * parameters
    held = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    free = shutil.disk_usage(folder).free
    if free + held < needed:
        raise OutputError(
            f"Checkpoints of this run need about {_said(needed)} in {folder}, and "
            f"{_said(free)} are free; free some, or choose another --output"
        )


def _said(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def full_disk_is_told(folder: Path) -> Iterator[None]:
    """Turn a write that failed for want of room into one sentence.

    Raises:
        OutputError: the block ran out of disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_full(error):
            raise
        raise OutputError(
            f"The disk of {folder} is full; the last whole checkpoint is kept, so free some room "
            "and continue with --resume"
        ) from None
    except Exception as error:
        # safetensors has an exception of its own without an errno.
        if "No space left" not in str(error):
            raise
        raise OutputError(
            f"The disk of {folder} is full; the last whole checkpoint is kept, so free some room "
            "and continue with --resume"
        ) from None


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # torch reports a short write of its archive as a RuntimeError.
        if any(t in str(error) for t in ("No space left", "PytorchStreamWriter failed")):
            return True
        error = error.__cause__ or error.__context__
    return False
