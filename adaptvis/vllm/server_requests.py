"""Requests of vLLM's HTTP server, checked before anything of them is processed.

What is wrong is HTTP 400 there, for streams as well: later, a stream has answered 200 already. Two
places are needed. The middleware sees what the client sent, fields that nobody reads and ``true``
before vLLM makes 1 of it included. The renderer is what requests of all interfaces pass, those of
``vllm run-batch`` too, and the first to know where in the prompt the images are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.exceptions import VLLMValidationError
from vllm.renderers.online_renderer import OnlineRenderer

from adaptvis.errors import ConfigError
from adaptvis.vllm.beam_search import refuse_beams
from adaptvis.vllm.field_names import FIELD, PREFIX, check_places, may_hold_fields
from adaptvis.vllm.front_end import Policy, refuse_prompt, request_config
from adaptvis.vllm.parameters import AttentionConfig
from adaptvis.vllm.versions import library

__all__ = ["RequestCheck", "check_body", "install_server_requests"]

_CHAT = "vllm_xargs"
# Token ids in, token ids out: vLLM's own parameters as they are.
_GENERATE = "sampling_params.extra_args"
_BEAMS = "use_beam_search"


def install_server_requests() -> None:
    """Wrap renderer and application; a second call changes nothing."""
    if getattr(OnlineRenderer.preprocess_chat, "_adaptvis", False):
        return
    library().add_to_servers(RequestCheck)
    chat, completion = OnlineRenderer.preprocess_chat, OnlineRenderer.preprocess_cmpl

    @functools.wraps(chat)
    async def checked_chat(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        config = _config_of(self, request)
        conversation, prompts = await chat(self, request, *args, **kwargs)
        for prompt in prompts:
            refuse_prompt(config, prompt)
        return conversation, prompts

    @functools.wraps(completion)
    async def checked_completion(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        config = _config_of(self, request)
        prompts = await completion(self, request, *args, **kwargs)
        for prompt in prompts:
            refuse_prompt(config, prompt)
        return prompts

    checked_chat._adaptvis = True  # type: ignore[attr-defined]
    OnlineRenderer.preprocess_chat = checked_chat
    OnlineRenderer.preprocess_cmpl = checked_completion


def _config_of(renderer: Any, request: Any) -> AttentionConfig | None:
    policy = getattr(renderer.renderer, "_adaptvis_policy", None)
    if policy is None:
        return None
    body = dict(request.model_extra or {})
    body |= {name: getattr(request, name, None) for name in (_CHAT, _BEAMS)}
    return check_body(body, policy)


def check_body(
    body: Mapping[str, Any], policy: Policy, place: str = _CHAT
) -> AttentionConfig | None:
    """The configuration of a request.

    Args:
        place: the object of the body that is read.

    Raises:
        VLLMValidationError: it is wrong, or stands where nothing reads it.
    """
    try:
        check_places(body, place, bare=not policy.unsupported)
        arguments: Any = body
        for name in place.split("."):
            arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
        if not isinstance(arguments, Mapping):
            # If not left out, vLLM refuses it.
            arguments = {}
        if place == _CHAT:
            _check_kinds(arguments)
    except ConfigError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from None
    config = request_config(policy, arguments, place)
    if body.get(_BEAMS):
        refuse_beams(config, policy.server)
    return config


def _check_kinds(arguments: Mapping[str, Any]) -> None:
    """What vLLM would refuse without saying what to do."""
    for name, value in arguments.items():
        if name != FIELD and not name.startswith(PREFIX):
            continue
        if value is None:
            raise ConfigError(f'{name} is null in {_CHAT}; leave it out, or send "{FIELD}": "off"')
        if isinstance(value, Mapping):
            raise ConfigError(
                f"{name} is an object, and vLLM takes only text, numbers and lists in {_CHAT}; "
                f'send "{FIELD}" as JSON text, or the fields one by one ("{PREFIX}alpha": 1.5)'
            )


class RequestCheck:
    """The middleware. A body without a field that could be ours is not even parsed."""

    # Of servers whose engine has none.
    policy: Policy | None = None

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, or go on as if nothing had been read."""
        policy = _policy_for(scope, self.policy)
        if policy is None:
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        message: Message = {"type": "http.request", "more_body": True}
        while message["type"] == "http.request" and message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        if message["type"] != "http.request":
            # The client has left.
            return
        body = b"".join(parts)
        try:
            _check_bytes(body, policy, scope["path"])
        except VLLMValidationError as error:
            answer = library().error_response(error)
            response = JSONResponse(answer.model_dump(), status_code=answer.error.code)
            await response(scope, receive, send)
            return
        again: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return again.pop() if again else await receive()

        await self.app(scope, replayed, send)


def _policy_for(scope: Scope, default: Policy | None) -> Policy | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    if "json" not in Headers(scope=scope).get("content-type", ""):
        return None
    engine = getattr(scope["app"].state, "engine_client", None)
    return getattr(getattr(engine, "input_processor", None), "_adaptvis_policy", default)


def _check_bytes(body: bytes, policy: Policy, path: str) -> None:
    if not may_hold_fields(body):
        return
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        # vLLM says so.
        return
    if isinstance(given, Mapping):
        check_body(given, policy, _GENERATE if path.endswith("/generate") else _CHAT)
