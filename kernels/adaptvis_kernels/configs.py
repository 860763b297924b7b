"""Block sizes, warps and stages per architecture: JSON files in the ``configs`` folder of a kernel.

``ops/<kernel>/configs/sm_90.json`` and its like map a key (such as "128/16": head size and bits per
element) to a configuration. An architecture without a file, and a key that its file lacks, take the
values of ``default.json``; ``interpreter.json`` holds small blocks, so that small tests span
several. A file's "source" says whether its values were timed on a device, or only compiled and read
in the resource report; ``benchmarks/tune_kernels.py`` writes timed ones.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

__all__ = ["configuration"]

_OPS = Path(__file__).parent / "ops"


@cache
def _table(op: str, architecture: str) -> dict[str, dict[str, int]]:
    path = _OPS / op / "configs" / f"{architecture}.json"
    if not path.is_file():
        return {}
    table: dict[str, dict[str, int]] = json.loads(path.read_text())["configurations"]
    return table


@cache
def configuration(op: str, key: str, architecture: str) -> dict[str, int]:
    """The configuration of kernel ``op`` for ``key`` on ``architecture``; do not change the result.

    Raises:
        KeyError: neither the architecture's file nor the default has the key.
    """
    for name in (architecture, "default"):
        found = _table(op, name).get(key)
        if found is not None:
            return found
    raise KeyError(f"no configuration of {op!r} for {key!r} on {architecture!r}")
