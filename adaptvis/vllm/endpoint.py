"""The endpoint plugin: ``GET /adaptvis/decisions/{request_id}`` on vLLM's server.

Off unless ``VLLM_PLUGINS`` names it (``adaptvis serve --decisions`` does). With ``--api-key`` the
route asks for the key as ``/v1`` does.

The id is the ``id`` of the response, in a stream that of every chunk. What vLLM makes of it:

========================  ========================  ==============================================
API                       the client's id           the request's id in the engine
========================  ========================  ==============================================
chat, messages            ``chatcmpl-X``            the same
completions               ``cmpl-X``                ``cmpl-X-0``; of the second prompt ``cmpl-X-1``
responses                 ``resp_X``                ``resp_X_0``
several chats in one      ``chatcmpl-X``            ``chatcmpl-X_0``, ``chatcmpl-X_1``
========================  ========================  ==============================================

``X`` is the request's ``X-Request-Id`` header, where it has one. Random characters that vLLM adds
behind an id, and the ``0_`` that it puts in front of samples (``n > 1``, which all decide alike),
never reach the record. Of a request with several prompts, the plain id stands for the first; the
engine's own ids select the others. Of several requests under one id the latest is shown.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from vllm import envs
from vllm.v1.worker.worker_base import WorkerBase

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.versions import library
from adaptvis.vllm.worker import DECISIONS

__all__ = ["PATH", "DecisionsEndpoint", "engine_ids"]

PATH = "/adaptvis/decisions/{request_id:path}"
_FIRST_PROMPT = {"chatcmpl-": "_0", "cmpl-": "-0", "resp_": "_0"}


def engine_ids(request_id: str) -> list[str]:
    """The ids that a client's id may have in the engine, the likeliest first."""
    for start, suffix in _FIRST_PROMPT.items():
        if request_id.startswith(start):
            first = request_id + suffix
            # A completion never keeps its plain id; a chat with one prompt always does.
            return [request_id, first] if start == "chatcmpl-" else [first, request_id]
    return [request_id]


class DecisionsEndpoint:
    """The route, as an entry point of group ``vllm.endpoint_plugins``.

    Raises:
        UnsupportedError: steering is not installed in this process, so nothing could answer.
    """

    name = "adaptvis_decisions"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        if not hasattr(WorkerBase, DECISIONS):
            raise UnsupportedError(
                f"The endpoint plugin {self.name} needs the plugin adaptvis: name both in "
                "VLLM_PLUGINS, and leave ADAPTVIS_DISABLE unset"
            )

    def attach_router(self, app: FastAPI) -> None:
        """Add the route."""
        app.add_api_route(PATH, _decision, methods=["GET"], tags=["adaptvis"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keep what the route needs: the engine, and the keys that open it."""
        tokens = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
        state.adaptvis_engine = engine_client
        state.adaptvis_guard = library().authentication(tokens) if tokens else None


async def _decision(request_id: str, request: Request) -> dict[str, Any]:
    """What steering did to a request: confidence, alpha, whether it was applied, and why not."""
    state = request.app.state
    if state.adaptvis_guard is not None and not state.adaptvis_guard.verify_token(request.headers):
        raise HTTPException(
            401, "The API key of this server is needed, as 'Authorization: Bearer KEY'"
        )
    wanted = engine_ids(request_id)
    first_rank = (await state.adaptvis_engine.collective_rpc(DECISIONS, args=(wanted,)))[0]
    latest = {record["request_id"]: record for record in first_rank.values()}
    for engine_id in wanted:
        if engine_id in latest:
            return latest[engine_id] | {"request_id": request_id}
    raise HTTPException(
        404,
        f"No request {request_id!r} is known: give the id of a response of this server; the last "
        "10 000 requests are kept, and one that still waits for its turn has no entry yet",
    )
