"""The versions that a result depends on."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from adaptvis import __version__

__all__ = ["versions"]


def versions(engines: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Of Python, adaptvis, torch and transformers, and of vLLM and Ray where they were used.

    Args:
        engines: what the engines said of themselves; a cluster's may have other versions.
    """
    found = {"python": platform.python_version(), "adaptvis": __version__}
    for package in ("torch", "transformers", "vllm", "ray"):
        told = dict.fromkeys(e[package] for e in engines.values() if package in e)
        if told:
            found[package] = ", ".join(told)
        elif package in ("torch", "transformers"):
            found[package] = _installed(package)
    return found


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
