"""Checkpoints that are whole or ignored.

The Trainer writes a checkpoint's files one after another, so a folder may be half-written when the
process dies. What counts is `complete.json`, written last and by renaming, with every file's size.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from adaptvis.evaluation.output import write_atomically

__all__ = ["last_complete", "mark_complete", "remove_incomplete", "step_of"]

_MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """Write the marker; call when every process has written its files."""
    sizes = {
        str(p.relative_to(folder)): p.stat().st_size
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != _MARKER
    }
    write_atomically(folder / _MARKER, json.dumps(sizes, indent=2) + "\n")


def last_complete(stage: Path) -> Path | None:
    """The newest whole `checkpoint-N` in a stage's folder, or None."""
    return max(filter(_is_complete, _folders(stage)), key=step_of, default=None)


def remove_incomplete(stage: Path) -> None:
    """Delete checkpoints that were not finished, so that none is mistaken for a good one."""
    for folder in _folders(stage):
        if not _is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)


def step_of(folder: Path) -> int:
    """The optimiser steps done when the checkpoint was written."""
    return int(folder.name.rpartition("-")[2])


def _folders(stage: Path) -> list[Path]:
    if not stage.is_dir():
        return []
    return [p for p in stage.iterdir() if p.is_dir() and _FOLDER.fullmatch(p.name)]


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
