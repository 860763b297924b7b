"""What adaptvis requires, by its own metadata, and which of it is installed."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

__all__ = ["Installed", "requirements"]

# What each extra is for; those of developers are left out.
_EXTRAS = {
    "vllm": "--engine vllm and adaptvis serve on GPUs",
    "vllm-cpu": "--engine vllm and adaptvis serve without a GPU",
    "train": "LoRA and TensorBoard in adaptvis train",
    "datasets": "data sets of the hub (--data hf:...)",
    "ray": "adaptvis eval --executor ray",
}


@dataclass(frozen=True)
class Installed:
    """A package that adaptvis uses.

    found: its version; None where it is not there. fits: whether that is one of those asked for.
    extra: the extra of adaptvis that brings it; empty where adaptvis needs it.
    purpose: what needs an optional package.
    """

    package: str
    wanted: str
    found: str | None
    fits: bool
    extra: str = ""
    purpose: str = ""


def requirements() -> Iterator[Installed] | None:
    """Required packages, then those of extras, each once; None where adaptvis is not installed."""
    try:
        texts = requires("adaptvis") or []
    except PackageNotFoundError:
        return None
    return _of([Requirement(text) for text in texts])


def _of(asked: list[Requirement]) -> Iterator[Installed]:
    seen = set()
    for extra in ("", *_EXTRAS):
        for one in asked:
            # Without an extra, markers of extras are false.
            applies = one.marker is None or one.marker.evaluate({"extra": extra})
            if not applies or one.name in seen:
                continue
            seen.add(one.name)
            found = _version(one.name)
            fits = found is not None and one.specifier.contains(found, prereleases=True)
            yield Installed(
                one.name, str(one.specifier), found, fits, extra, _EXTRAS.get(extra, "")
            )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
