"""``--wheels``: what a machine without a network lacks, and how to bring it in small pieces."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu.stage import STAGES, named
from gpu.vllm_wheel import assemble, prepare

__all__ = ["add_wheel_options", "run_wheels"]

_LIST = Path(__file__).with_name("packages.txt")
# What may be brought at a time.
LIMIT = 60.0
# The first three run with torch and triton alone.
_NEED = {"models": "adaptvis", "families": "adaptvis", "vllm": "vllm", "training": "adaptvis"}
_BARE = ("torch", "triton", "transformers", "numpy")
# pip takes these names as they are, so every one that may occur has to be there.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 11, -1)]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


@dataclass(frozen=True)
class Wheel:
    """size: MiB."""

    name: str
    version: str
    size: float
    use: str

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"


def add_wheel_options(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`run_wheels` reads."""
    group = parser.add_argument_group("bringing packages to a machine without a network")
    group.add_argument(
        "--wheels",
        nargs="*",
        metavar="STAGE",
        help="print what this machine lacks for the stages (default: all but vllm) as pip "
        "commands; 'vllm' also downloads stock vLLM 0.26.0 and strips it, into --output",
    )
    group.add_argument(
        "--python",
        help="of another machine, as 3.12: it has torch, triton, "
        "transformers and numpy alone, or what --has says",
    )
    group.add_argument("--has", type=Path, metavar="FILE", help="its `pip list --format=freeze`")
    group.add_argument(
        "--vllm-wheel", type=Path, metavar="FILE", help="stock vLLM's wheel, already downloaded"
    )
    group.add_argument(
        "--assemble",
        type=Path,
        metavar="DIR",
        help="on the other machine: put the pieces of vLLM in DIR together, into DIR/site",
    )


def run_wheels(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print, prepare or assemble; returns the exit status."""
    if options.assemble is not None:
        return assemble(options.assemble)
    stages = named(parser, options.wheels) or [stage for stage in STAGES if stage != "vllm"]
    python = options.python or ".".join(map(str, sys.version_info[:2]))
    uses = {_NEED[stage] for stage in stages if stage in _NEED}
    if "vllm" in uses:
        uses.add("adaptvis")
    present = _present(options)
    missing = [wheel for wheel in wheels(uses) if _lacks(wheel, present)]
    absent = [name for name in _BARE[:2] if name not in present]
    if absent:
        print(f"# {' and '.join(absent)} must be there first: too large to be brought in pieces.")
    print(f"# For {', '.join(stages)}, Python {python}: {len(missing)} packages are missing.")
    for index, group in enumerate(_groups(missing), 1):
        total = sum(wheel.size for wheel in group)
        print(f"\n# {total:.1f} MiB")
        print(_download(python, f"wheels/{index}", [wheel.pin for wheel in group]))
    if missing:
        print(
            "\n# There, after each has been copied; the folder comes first on the path:\n"
            "python -m pip install --no-index --no-deps --upgrade --target site wheels/*/*.whl\n"
            "export PYTHONPATH=$PWD/site"
        )
    if "vllm" in stages:
        folder = options.output or Path("wheels") / "vllm"
        return prepare(folder, python, LIMIT, options.vllm_wheel, _download)
    return 0


def wheels(uses: set[str]) -> Iterator[Wheel]:
    """Of packages.txt, those for these uses."""
    for line in _LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin, size, use = line.split()
            name, version = pin.split("==")
            if use in uses:
                yield Wheel(name, version, float(size), use)


def normal(name: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _present(options: argparse.Namespace) -> dict[str, str]:
    """Version by name, of this machine or of the one that was described."""
    if options.has is not None:
        if not options.has.is_file():
            sys.exit(
                f"--has names no file: {options.has}; write `pip list --format=freeze` into it"
            )
        lines = options.has.read_text(encoding="utf-8").splitlines()
        pairs = [line.split("==") for line in lines if line.count("==") == 1]
        return {normal(name.strip()): version.strip() for name, version in pairs}
    if options.python is not None:
        return dict.fromkeys(_BARE, "")
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution.version)
    return found


def _lacks(wheel: Wheel, present: dict[str, str]) -> bool:
    """Any version will do, but for transformers, whose later ones this vLLM cannot use."""
    if wheel.name == "transformers":
        return present.get(wheel.name) != wheel.version
    return wheel.name not in present


def _groups(missing: list[Wheel]) -> list[list[Wheel]]:
    """Each within the limit, the largest first."""
    groups: list[list[Wheel]] = []
    for wheel in sorted(missing, key=lambda wheel: -wheel.size):
        for group in groups:
            if sum(other.size for other in group) + wheel.size < LIMIT:
                group.append(wheel)
                break
        else:
            groups.append([wheel])
    return groups


def _download(python: str, folder: str, pins: list[str]) -> str:
    options = [
        *("--no-deps", "--only-binary=:all:", f"--python-version {python}", "--implementation cp"),
        *(f"--platform {platform}" for platform in _PLATFORMS),
    ]
    return f"python -m pip download {' '.join(options)} -d {folder} {' '.join(pins)}"
