"""Prefix-cache isolation: blocks behind the first steered token are not those of other requests.

Keys and values of a steered token, and of all tokens behind it, depend on the configuration. The
block that holds the first steered token gets an extra key; later blocks follow it by their chained
hashes, and earlier ones stay shared with everybody.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from adaptvis.vllm.images import image_runs
from adaptvis.vllm.parameters import Ticket, ticket_of

__all__ = ["first_steered_position", "install_prefix_keys", "prefix_key"]

# The function is imported by name into these.
_MODULES = (
    "vllm.v1.core.kv_cache_utils",
    "vllm.v1.core.block_pool",
    "vllm.v1.simple_kv_offload.manager",
)
_NAME = "generate_block_hash_extra_keys"


def first_steered_position(ticket: Ticket, prompt_length: int, image_end: int) -> int:
    """The first prompt position whose keys and values depend on alpha.

    Args:
        image_end: the position behind the tokens of the (first) image.
    """
    if ticket.config is not None and ticket.config.rows == "text_after_image":
        return image_end
    return prompt_length - 1


def prefix_key(ticket: Ticket, prompt_length: int, request_id: str) -> tuple[str, str] | None:
    """The extra key of the block with the first steered token; None for an unsteered request."""
    if ticket.config is None:
        return None
    key = f"{ticket.config.to_json()}|{prompt_length}"
    if ticket.config.rows == "text_after_image":
        # Another request would read steered rows before it has measured its own confidence.
        key += f"|{request_id}"
    return ("adaptvis", key)


def _key_of_request(request: Any) -> tuple[int, tuple[str, str]] | None:
    """Position and key of a scheduler's request, computed once."""
    known = request.__dict__.get("_adaptvis_key", False)
    if known is not False:
        return known
    found = None
    params = request.sampling_params
    ticket = ticket_of(params.extra_args) if params is not None else None
    if ticket is not None:
        key = prefix_key(ticket, request.num_prompt_tokens, request.request_id)
        if key is not None:
            end = image_runs(request.mm_features)[0][-1][1]
            found = (first_steered_position(ticket, request.num_prompt_tokens, end), key)
    request._adaptvis_key = found
    return found


def install_prefix_keys() -> None:
    """Wrap the function in every module that has it; a second call changes nothing."""
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        original = getattr(module, _NAME)
        if getattr(original, "_adaptvis", False):
            continue
        setattr(module, _NAME, _with_key(original))


def _with_key(original: Any) -> Any:
    @functools.wraps(original)
    def with_key(request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int) -> Any:
        keys, next_mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        own = _key_of_request(request)
        if own is not None and start_token_idx <= own[0] < end_token_idx:
            keys = (*(keys or ()), own[1])
        return keys, next_mm_idx

    with_key._adaptvis = True  # type: ignore[attr-defined]
    return with_key
