"""Block sizes, warps and stages per architecture: JSON files in the ``configs`` folder of a kernel.

``ops/<kernel>/configs/sm_90.json`` and its like map a key (such as "128/16": head size and bits per
element) to a configuration. An architecture without a file takes that of a relative
(:data:`RELATIVES`); a key that the file lacks takes the values of ``default.json``;
``interpreter.json`` holds small blocks, so that small tests span several. A file's "source" says
whether its values were timed on a device, or only compiled and read in the resource report;
``benchmarks/tune_kernels.py`` writes timed ones.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

__all__ = ["RELATIVES", "configuration", "is_supported", "table_of"]

_OPS = Path(__file__).parent / "ops"

# Architectures that are served like another one: of the same matrix instructions, and with at least
# its shared memory (99 KiB per program on sm_89, 64 KiB on gfx942) and registers.
RELATIVES = {
    "sm_86": "sm_89",
    "sm_87": "sm_89",
    "sm_88": "sm_89",
    "sm_120": "sm_89",
    "sm_121": "sm_89",
    "sm_103": "sm_100",
    "gfx90a": "gfx942",
}
_LEAST_CAPABILITY = 80


def is_supported(architecture: str) -> bool:
    """Whether shipped configurations fit: NVIDIA from compute capability 8.0, two of AMD's."""
    if architecture in ("gfx90a", "gfx942"):
        return True
    capability = re.fullmatch(r"sm_(\d+)", architecture)
    return capability is not None and int(capability[1]) >= _LEAST_CAPABILITY


@cache
def table_of(op: str, architecture: str) -> dict[str, dict[str, int]]:
    """Configurations in the file of exactly this architecture; empty where there is none."""
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
    for name in (architecture, RELATIVES.get(architecture), "default"):
        found = table_of(op, name).get(key) if name is not None else None
        if found is not None:
            return found
    raise KeyError(f"no configuration of {op!r} for {key!r} on {architecture!r}")
