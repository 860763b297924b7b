"""Beam search is refused where it would be steered: vLLM makes a request of every beam's step.

Such requests carry no parameters of the client's, and a server's default would steer the last token
of every step instead of the prompt's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError

from adaptvis.errors import ConfigError
from adaptvis.vllm.parameters import FIELD, AttentionConfig, ServerSteering, read_request

__all__ = ["install_beam_search", "refuse_beams"]

_REFUSED = (
    "Beam search cannot be steered in vLLM; use sampling or greedy decoding, or switch steering "
    "off for the {}"
)


def install_beam_search() -> None:
    """Wrap vLLM's beam search; a second call changes nothing."""
    for request in (ChatCompletionRequest, CompletionRequest):
        _wrap(request, "to_beam_search_params", _check_request)
    _wrap(BeamSearchOnlineMixin, "beam_search", _check_server)
    _wrap(BeamSearchOfflineMixin, "beam_search", _check_engine)


def _wrap(owner: Any, name: str, check: Any) -> None:
    original = getattr(owner, name)
    if getattr(original, "_adaptvis", False):
        return

    @functools.wraps(original)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self)
        return original(self, *args, **kwargs)

    checked._adaptvis = True  # type: ignore[attr-defined]
    setattr(owner, name, checked)


def _check_request(request: Any) -> None:
    arguments: Mapping[str, Any] | None = request.vllm_xargs
    try:
        config = read_request(arguments, None, place="vllm_xargs", bare=False)
    except ConfigError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from None
    refuse_beams(config, ServerSteering())


def _check_server(serving: Any) -> None:
    refuse_beams(None, serving.engine_client.input_processor._adaptvis_policy.server)


def _check_engine(llm: Any) -> None:
    refuse_beams(None, llm.llm_engine.input_processor._adaptvis_policy.server)


def refuse_beams(config: AttentionConfig | None, server: ServerSteering) -> None:
    """Refuse a beam search that a request or the server's default would steer.

    Raises:
        VLLMValidationError: says which of the two.
    """
    if server.attention is not None:
        raise VLLMValidationError(_REFUSED.format("server"), parameter=FIELD)
    if config is not None:
        raise VLLMValidationError(_REFUSED.format("request"), parameter=FIELD)
