"""Requests that reach the engine past our front end, which would run unsteered without a word.

vLLM's Rust front end is such a way: no Python, and so no plugin, sees its requests.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.core import EngineCore

from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.vllm.parameters import FIELD, AttentionConfig, read_request, read_server, ticket_of
from adaptvis.vllm.support import RUST_FRONT_END, rust_front_end

__all__ = ["check_front_end", "install_engine_guard"]

_PASSED_BY = (
    "the request did not pass adaptvis's front end, so that it would not be steered: send it "
    f"through vLLM's Python front end (unset {RUST_FRONT_END}), or with {{'{FIELD}': 'off'}}"
)


def install_engine_guard() -> None:
    """Wrap the entrance of the engine; a second call changes nothing."""
    preprocess = EngineCore.preprocess_add_request
    if getattr(preprocess, "_adaptvis", False):
        return

    @functools.wraps(preprocess)
    def guarded(self: Any, request: Any) -> Any:
        sampling, pooling = request.sampling_params, request.pooling_params
        if sampling is not None and ticket_of(sampling.extra_args) is None:
            _refuse(sampling.extra_args, read_server(self.vllm_config.additional_config).attention)
        elif pooling is not None:
            _refuse(pooling.extra_kwargs, None)
        return preprocess(self, request)

    guarded._adaptvis = True  # type: ignore[attr-defined]
    EngineCore.preprocess_add_request = guarded


def _refuse(arguments: Any, default: AttentionConfig | None) -> None:
    """Raises VLLMValidationError where somebody wants a request steered that has no ticket."""
    try:
        config = read_request(arguments, default, bare=False)
    except ConfigError as error:
        raise VLLMValidationError(f"{_PASSED_BY}; {error}", parameter=FIELD) from None
    if config is not None:
        raise VLLMValidationError(_PASSED_BY, parameter=FIELD)


def check_front_end(vllm_config: Any) -> None:
    """Called by workers, because no other code of ours is certain to run before the first request.

    Raises:
        UnsupportedError: the server has a default that its front end will not read.
    """
    if rust_front_end() and read_server(vllm_config.additional_config).attention is not None:
        raise UnsupportedError(
            f"{RUST_FRONT_END} is set, and adaptvis cannot steer behind vLLM's Rust front end: "
            "unset it, or take the attention steering out of --additional-config"
        )
