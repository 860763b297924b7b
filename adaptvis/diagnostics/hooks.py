"""Looking into, and editing, what flows through a transformers model; always undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from adaptvis.hf.engine import HFEngine

__all__ = ["Edit", "decoder_layers", "edited_embeddings", "edited_layer"]

Edit = Callable[[Tensor, Tensor], Tensor]
"""From hidden states [B, n, D] and image mask, bool [B, n], to edited hidden states [B, n, D]."""


def decoder_layers(engine: HFEngine) -> Any:
    """The decoder's layers, first to last."""
    return engine.family.decoder_of(engine.model).layers


@contextmanager
def edited_embeddings(engine: HFEngine, edit: Edit) -> Iterator[None]:
    """Inside the block, the decoder's input embeddings of every pass with image tokens are edited.

    Passes without image tokens (decode steps, the second pass of steering) are left alone.
    """
    with _edited(engine, engine.family.decoder_of(engine.model), "inputs_embeds", edit):
        yield


@contextmanager
def edited_layer(engine: HFEngine, layer: int, edit: Edit) -> Iterator[None]:
    """The same for the hidden states that enter decoder layer ``layer``, counted from 0."""
    with _edited(engine, decoder_layers(engine)[layer], "hidden_states", edit):
        yield


@contextmanager
def _edited(engine: HFEngine, module: Any, name: str, edit: Edit) -> Iterator[None]:
    placeholder = engine.family.placeholder_of(engine.model.config)
    image: list[Tensor | None] = [None]

    def remember(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = None if ids is None else ids == placeholder
        image[0] = mask if mask is not None and bool(mask.any()) else None

    def change(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        mask = image[0]
        given = kwargs.get(name, args[0] if args else None)
        if mask is None or given is None or given.shape[:2] != mask.shape:
            return None
        edited = edit(given, mask)
        if name in kwargs:
            return args, {**kwargs, name: edited}
        return (edited, *args[1:]), kwargs

    with ExitStack() as stack:
        outer = engine.model.register_forward_pre_hook(remember, with_kwargs=True)
        stack.callback(outer.remove)
        inner = module.register_forward_pre_hook(change, with_kwargs=True)
        stack.callback(inner.remove)
        yield
