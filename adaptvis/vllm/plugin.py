"""The entry point of group ``vllm.general_plugins``: runs once in every process of vLLM."""

from __future__ import annotations

import logging
import multiprocessing

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.known_versions import (
    Verdict,
    installed_version,
    is_cpu_build,
    known_versions,
    verdict,
)
from adaptvis.vllm.support import UNTESTED, switched_on

__all__ = [
    "DISABLE",
    "STRICT",
    "check_vllm",
    "installed_version",
    "is_cpu_build",
    "register",
    "verdict",
    "way_out",
]

DISABLE = "ADAPTVIS_DISABLE"
STRICT = "ADAPTVIS_STRICT"

logger = logging.getLogger("vllm.adaptvis")


def register() -> None:
    """Install our model and steering into this process, unless ``ADAPTVIS_DISABLE=1``.

    Cheap, and the same however often it is called. On a vLLM that is not known, requests that ask
    for steering are refused and nothing else changes; with ``ADAPTVIS_UNTESTED=1`` it is steered
    all the same. With ``ADAPTVIS_STRICT=1`` nothing starts there, or where it was only read.

    Raises:
        UnsupportedError: as ``ADAPTVIS_STRICT=1`` says; or the vLLM lacks what is needed.
    """
    if switched_on(DISABLE):
        logger.info("adaptvis is switched off by %s.", DISABLE)
        return
    found = verdict()
    _check_strict(found)
    if not found.known and not switched_on(UNTESTED):
        from adaptvis.vllm.refusal import install_refusal

        _say("adaptvis steers nothing here: %s; %s.", found.reason, way_out())
        install_refusal(f"{found.reason}; {way_out()}")
        return
    if not found.known:
        differences = "; ".join(found.differs)
        _say(
            "adaptvis steers vLLM %s because %s is set, and could not verify: %s.",
            *(found.version, UNTESTED, differences),
        )
    elif not found.tested:
        _say(
            "vLLM %s was read for adaptvis, and its tests were not run on it (they were on %s).",
            *(found.version, ", ".join(known_versions(tested=True))),
        )
    try:
        _install()
    except (ImportError, AttributeError) as problem:
        raise UnsupportedError(
            f"adaptvis cannot be installed into vLLM {found.version} ({problem}); "
            f"{f'unset {UNTESTED}' if not found.known else f'set {DISABLE}=1'} to run it unsteered"
        ) from problem


def _check_strict(found: Verdict) -> None:
    if switched_on(STRICT) and not (found.known and found.tested):
        read = f"vLLM {found.version} was read for adaptvis, and its tests were not run on it"
        raise UnsupportedError(f"{found.reason or read}; {way_out()}")


def _install() -> None:
    from adaptvis.vllm.beam_search import install_beam_search
    from adaptvis.vllm.engine_guard import install_engine_guard
    from adaptvis.vllm.front_end import install_front_end
    from adaptvis.vllm.image_cache import install_image_cache
    from adaptvis.vllm.metrics import install_metrics
    from adaptvis.vllm.models import install_models
    from adaptvis.vllm.prefix_keys import install_prefix_keys
    from adaptvis.vllm.server_requests import install_server_requests
    from adaptvis.vllm.worker import install_worker

    install_models()
    install_front_end()
    install_engine_guard()
    install_image_cache()
    install_server_requests()
    install_beam_search()
    install_metrics()
    install_prefix_keys()
    install_worker()


def _say(message: str, *arguments: str) -> None:
    # Engine and workers run the plugin, too: once is enough.
    if multiprocessing.parent_process() is None:
        logger.warning(message, *arguments)


def way_out() -> str:
    """What to do about a vLLM that is not steered, as a clause."""
    tested = ", ".join(known_versions(tested=True))
    other = (
        f"unset {STRICT}" if switched_on(STRICT) else f"set {UNTESTED}=1 to steer it at your risk"
    )
    return f"install one that was tested ({tested}), or {other}"


def check_vllm() -> Verdict:
    """The verdict on a vLLM that would be steered if it were started now.

    Raises:
        UnsupportedError: it is not installed, or it is unknown and nothing says to steer it, or
            ``ADAPTVIS_STRICT=1`` says not to.
    """
    found = verdict()
    _check_strict(found)
    if not found.known and not switched_on(UNTESTED):
        raise UnsupportedError(f"{found.reason}; {way_out()}")
    return found
