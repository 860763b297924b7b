"""What vLLM's front end believes about the images that its engine holds.

The front end notes an image when it has processed it, and sends no pixels with the next request
that shows it. A request that is refused after that, by us or by vLLM, or whose client leaves, never
brings the pixels to the engine: the note is wrong, and the next request fails. So a note counts
only from the moment when the pixels were handed over; until then they are processed and sent again.

Only the default cache (``--mm-processor-cache-type lru``) keeps such notes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import (
    AsyncMPClient,
    DPAsyncMPClient,
    InprocClient,
    SyncMPClient,
)
from vllm.v1.engine.llm_engine import LLMEngine

from adaptvis.vllm.versions import library

__all__ = ["install_image_cache"]

_FEW = 1024


def install_image_cache() -> None:
    """Wrap the cache and the engines that fill it; a second call changes nothing."""
    of_version = library()
    cache = of_version.sender_cache()
    is_cached_item, get_and_update_item = cache.is_cached_item, cache.get_and_update_item
    if getattr(is_cached_item, "_adaptvis", False):
        return

    @functools.wraps(is_cached_item)
    def was_sent(self: Any, mm_hash: str) -> bool:
        return mm_hash not in _unsent(self) and bool(is_cached_item(self, mm_hash))

    @functools.wraps(get_and_update_item)
    def noted(self: Any, mm_item: Any, mm_hash: str) -> Any:
        if mm_item is not None:
            unsent = _unsent(self)
            if mm_hash in unsent:
                of_version.forget_image(self, mm_hash)
            if not is_cached_item(self, mm_hash):
                unsent.add(mm_hash)
                _forget_evicted(unsent, lambda one: is_cached_item(self, one))
        return get_and_update_item(self, mm_item, mm_hash)

    was_sent._adaptvis = True  # type: ignore[attr-defined]
    cache.is_cached_item, cache.get_and_update_item = was_sent, noted
    for engine in (AsyncLLM, LLMEngine):
        _follow(engine, cache)
    for client in (InprocClient, SyncMPClient):
        _watch(client)
    for client in (AsyncMPClient, DPAsyncMPClient):
        _watch_async(client)


class _Unsent(set[str]):
    """Hashes of images that were processed and not sent."""

    def __init__(self) -> None:
        super().__init__()
        self.many = _FEW


def _unsent(cache: Any) -> _Unsent:
    found: _Unsent | None = getattr(cache, "_adaptvis_unsent", None)
    if found is None:
        found = cache._adaptvis_unsent = _Unsent()
    return found


def _forget_evicted(unsent: _Unsent, is_cached: Any) -> None:
    # Requests that are refused would leave a hash each for ever.
    if len(unsent) > unsent.many:
        unsent.difference_update([one for one in tuple(unsent) if not is_cached(one)])
        unsent.many = max(_FEW, 2 * len(unsent))


def _follow(engine: Any, kind: type) -> None:
    """Tell the engine's client where the front end's notes are."""
    initialize = engine.__init__

    @functools.wraps(initialize)
    def initialized(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        cache = self.renderer.mm_processor_cache
        if isinstance(cache, kind):
            self.engine_core._adaptvis_unsent = _unsent(cache)

    engine.__init__ = initialized


def _watch(client: Any) -> None:
    """Take images off the notes as soon as the engine has their pixels."""
    add = client.add_request

    @functools.wraps(add)
    def added(self: Any, request: Any) -> None:
        # Before, because an engine in the same process fills in the pixels that it has.
        sent = _with_pixels(request.mm_features)
        add(self, request)
        _note_sent(self, sent)

    client.add_request = added


def _watch_async(client: Any) -> None:
    add = client.add_request_async

    @functools.wraps(add)
    async def added(self: Any, request: Any) -> None:
        sent = _with_pixels(request.mm_features)
        await add(self, request)
        _note_sent(self, sent)

    client.add_request_async = added


def _with_pixels(features: Iterable[Any] | None) -> list[str]:
    return [f.mm_hash or f.identifier for f in features or () if f.data is not None]


def _note_sent(client: Any, sent: Iterable[str]) -> None:
    unsent: set[str] | None = getattr(client, "_adaptvis_unsent", None)
    if unsent is not None:
        unsent.difference_update(sent)
