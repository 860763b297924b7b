"""Taking the last tokens out of a key-value cache and putting them back.

Re-anchoring overwrites the last rows of a cache that the model has just filled. Dynamic caches
know how to be cropped; static ones are rewound here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    QuantizedLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

__all__ = [
    "CacheTail",
    "can_roll_back",
    "clear",
    "recording_past",
    "roll_back",
    "sequence_length",
]

_ROLLABLE = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)


def sequence_length(cache: Cache | None) -> int:
    """Number of tokens that the cache has seen; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length())


@contextmanager
def recording_past(cache: Cache | None) -> Iterator[None]:
    """Let sliding-window layers keep what a rollback needs; they shrink again on exit."""
    layers = [] if cache is None else cache.layers
    started = [
        layer
        for layer in layers
        if isinstance(layer, DynamicSlidingWindowLayer) and not layer.record_past
    ]
    for layer in started:
        layer.activate_past_recording()
    try:
        yield
    finally:
        for layer in started:
            if layer.is_initialized:
                layer.crop(0)
            layer.record_past = False


def _overflows(layer: StaticSlidingWindowLayer, length: int) -> bool:
    return length > layer.max_cache_len


def can_roll_back(cache: Cache, length: int, count: int) -> bool:
    """Whether ``count`` tokens can be taken back once the cache holds ``length`` tokens."""
    for layer in cache.layers:
        if type(layer) not in _ROLLABLE or isinstance(layer, QuantizedLayer):
            return False
        # A full static window has dropped the older keys; one token can still be undone.
        if isinstance(layer, StaticSlidingWindowLayer) and _overflows(layer, length) and count > 1:
            return False
    return True


def roll_back(cache: Cache, count: int) -> None:
    """Take back the last ``count`` tokens; :func:`can_roll_back` must hold."""
    for layer in cache.layers:
        if isinstance(layer, StaticSlidingWindowLayer):
            if _overflows(layer, layer.cumulative_length_int):
                # The next update rolls left by one: room for the token at the right end.
                layer.keys.copy_(layer.keys.roll(1, dims=-2))
                layer.values.copy_(layer.values.roll(1, dims=-2))
            else:
                layer.cumulative_length.sub_(count)
            layer.cumulative_length_int -= count
        elif isinstance(layer, StaticLayer):
            layer.cumulative_length.sub_(count)
        else:
            layer.crop(-count)


def clear(cache: Cache) -> None:
    """Make a cache as it was before its first token."""
    cache.reset()
    for layer in cache.layers:
        # Before transformers 5.18 zeros stay, and the next tokens come behind them.
        if isinstance(layer, DynamicLayer) and layer.is_initialized:
            layer.keys = layer.values = None
            layer.is_initialized = False


class CacheTail:
    """A copy of the last ``count`` tokens' keys and values, to be put back for some prompts.

    Layers of linear attention and convolutions are copied whole: their state has no tokens.
    """

    def __init__(self, cache: Cache, count: int) -> None:
        self.count = count
        self.layers = [
            tuple(tensor.clone() for tensor in _restorable(layer, count)) for layer in cache.layers
        ]

    def restore(self, cache: Any, prompts: Any) -> None:
        """Put the copy back where ``prompts`` (bool [B]) is True."""
        for layer, saved in zip(cache.layers, self.layers, strict=True):
            if not _is_recurrent(layer) and layer.keys.requires_grad:
                # Attention has saved these for its backward pass.
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
            for tensor, old in zip(_restorable(layer, self.count), saved, strict=True):
                chosen = prompts.to(old.device).view(-1, *[1] * (old.dim() - 1))
                tensor.copy_(old.where(chosen, tensor))


def _is_recurrent(layer: Any) -> bool:
    return hasattr(layer, "recurrent_states")


def _restorable(layer: Any, count: int) -> tuple[Tensor, ...]:
    """The tensors [B, ...] of a layer that its last ``count`` tokens have changed."""
    if not _is_recurrent(layer):
        return _tail(layer, count)
    tensors: list[Tensor] = []
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, dict) else value
        parts = parts if isinstance(value, dict | list | tuple) else [value]
        tensors += [part for part in parts if isinstance(part, Tensor) and part.dim() > 1]
    return tuple(tensors)


def _tail(layer: DynamicLayer | StaticLayer, count: int) -> tuple[Tensor, Tensor]:
    if isinstance(layer, StaticSlidingWindowLayer):
        end = min(layer.cumulative_length_int, layer.max_cache_len)
    elif isinstance(layer, StaticLayer):
        end = int(layer.cumulative_length)
    else:
        end = layer.keys.shape[-2]
    start = max(end - count, 0)
    return layer.keys[:, :, start:end], layer.values[:, :, start:end]
