"""The versions that a result depends on."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from adaptvis import __version__

__all__ = ["mixed_image_processors", "versions"]


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


def mixed_image_processors(engines: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for each model whose pictures went through different image processors.

    Args:
        engines: descriptions by model; parts of a run that differ stand side by side.
    """
    return [
        f"the parts of this run saw different pixels of the same pictures: {model} was asked with "
        f"{engine['image_processor']}, and their logits differ by about 1e-2"
        for model, engine in engines.items()
        if ", " in engine.get("image_processor", "")
    ]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
