"""An unknown vLLM is not steered: it runs as it is, and whoever asks for steering is told why.

Nothing is taken for granted here about what functions take or do: the wrappers look through all
arguments for sampling parameters and engine configurations, and pass everything on.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.vllm.parameters import FIELD, read_request, read_server, ticket_of
from adaptvis.vllm.versions.v0_32 import warn_of_bodies

__all__ = ["install_refusal"]

# By what every request passes; one of each group must be there.
_ENTRANCES: tuple[tuple[str, ...], ...] = (
    (
        "vllm.v1.engine.async_llm:AsyncLLM.generate",
        "vllm.v1.engine.async_llm:AsyncLLM.add_request",
    ),
    (
        "vllm.v1.engine.llm_engine:LLMEngine.add_request",
        "vllm.entrypoints.llm:LLM.generate",
        "vllm.entrypoints.llm:LLM.chat",
        "vllm.entrypoints.llm:LLM.enqueue",
    ),
    ("vllm.v1.engine.async_llm:AsyncLLM.__init__",),
    ("vllm.v1.engine.llm_engine:LLMEngine.__init__",),
)
# Where front ends without the plugin hand over requests and defaults. An engine in a process of its
# own loads the plugin in its constructor, and makes its executor after that.
_ENGINE = (
    "vllm.v1.engine.core:EngineCore.preprocess_add_request",
    "vllm.v1.engine.core:EngineCore.__init__",
    "vllm.v1.executor.abstract:Executor.__init__",
)


def install_refusal(reason: str) -> None:
    """Refuse steering in this process; a second call changes nothing.

    Args:
        reason: one clause.

    Raises:
        UnsupportedError: there is no place to refuse it at, so that it would pass unnoticed.
    """
    for group in _ENTRANCES:
        found = [_guard(place, reason) for place in group]
        if not any(found):
            raise UnsupportedError(
                f"{reason}; and adaptvis cannot even refuse steering there, because {group[0]} is "
                "missing: run this vLLM with ADAPTVIS_DISABLE=1"
            )
    for place in _ENGINE:
        _guard(place, reason)
    _guard_servers(reason)


def _guard(place: str, reason: str) -> bool:
    module, _, path = place.partition(":")
    owner_name, _, name = path.partition(".")
    try:
        owner = getattr(importlib.import_module(module), owner_name)
        original = getattr(owner, name)
    except (ImportError, AttributeError):
        return False
    if getattr(original, "_adaptvis_guard", False):
        return True

    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # The first is the engine itself.
        for value in _values([*args[1:], *kwargs.values()]):
            inner = (getattr(value, name, None) for name in ("sampling_params", "pooling_params"))
            for parameters in (value, *inner):
                for name in ("extra_args", "extra_kwargs"):
                    _refuse_request(getattr(parameters, name, None), reason)
            if hasattr(value, "additional_config"):
                _refuse_server(value.additional_config, reason)
        return original(*args, **kwargs)

    guarded._adaptvis_guard = True  # type: ignore[attr-defined]
    setattr(owner, name, guarded)
    return True


def _values(arguments: Iterable[Any]) -> Iterator[Any]:
    """The arguments, and what lists among them hold, as those of parameters do."""
    for one in arguments:
        yield from one if isinstance(one, list | tuple) else (one,)


def _refuse_request(arguments: Any, reason: str) -> None:
    if not isinstance(arguments, Mapping):
        return
    try:
        config = read_request(arguments, None, bare=False)
    except ConfigError as error:
        raise _validation_error(str(error)) from None
    ticket = ticket_of(arguments)
    if config is not None or (ticket is not None and ticket.config is not None):
        raise _validation_error(f"adaptvis cannot steer requests of this engine: {reason}")


def _refuse_server(additional_config: Any, reason: str) -> None:
    server = read_server(additional_config)
    if server.attention is not None or server.norms is not None:
        raise UnsupportedError(f"adaptvis cannot steer this engine: {reason}")


def _validation_error(message: str) -> Exception:
    try:
        from vllm.exceptions import VLLMValidationError

        return VLLMValidationError(message, parameter=FIELD)
    except (ImportError, TypeError):
        return ValueError(message)


def _guard_servers(reason: str) -> None:
    """Look through the bodies of a server's requests: vLLM passes over fields it does not know."""
    try:
        from adaptvis.vllm.front_end import Policy
        from adaptvis.vllm.parameters import ServerSteering
        from adaptvis.vllm.server_requests import RequestCheck
        from adaptvis.vllm.versions import library

        class Refusing(RequestCheck):
            policy = Policy(ServerSteering(), reason)

        library().add_to_servers(Refusing)
    except Exception as problem:
        # Whatever it is, the server is no worse off than without adaptvis.
        warn_of_bodies(problem)
