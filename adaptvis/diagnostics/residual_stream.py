"""The decoder's residual stream: recorded and replaced, at the last token and at image tokens.

Slot 0 is what enters layer 0, slot l + 1 is what layer l puts out. All hooks are removed when a
block ends, whatever ends it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from adaptvis.diagnostics.hooks import decoder_layers, edited_embeddings, edited_layer
from adaptvis.engine import Query
from adaptvis.hf.engine import HFEngine

__all__ = [
    "grid_tokens",
    "image_embeddings",
    "last_logits",
    "last_tokens",
    "layer_inputs",
    "replaced_last_token",
    "slot_count",
]


def slot_count(engine: HFEngine) -> int:
    """The input of layer 0 and the output of each layer."""
    return len(decoder_layers(engine)) + 1


@torch.inference_mode()
def last_logits(engine: HFEngine, inputs: dict[str, Tensor]) -> Tensor:
    """Logits after the last prompt token, float32 [B, V]; the model as it is, patched or not."""
    kept = {}
    if "logits_to_keep" in inspect.signature(engine.model.forward).parameters:
        kept["logits_to_keep"] = 1
    logits: Tensor = engine.model(**inputs, **kept).logits
    return logits[:, -1].float()


def last_tokens(engine: HFEngine, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The last prompt token's residual stream: [slots, B, D], and its logits [B, V]."""
    seen: dict[int, Tensor] = {}

    def look(slot: int, hidden: Tensor) -> None:
        seen[slot] = hidden[:, -1].clone()

    with _at_slots(engine, range(slot_count(engine)), look):
        logits = last_logits(engine, inputs)
    return torch.stack([seen[slot] for slot in range(len(seen))]), logits


@contextmanager
def replaced_last_token(engine: HFEngine, slot: int, vectors: Tensor) -> Iterator[None]:
    """Inside the block, the last row of every pass has ``vectors`` [B, D] in this slot."""

    def replace(_: int, hidden: Tensor) -> Tensor:
        return torch.cat([hidden[:, :-1], vectors[:, None].to(hidden)], dim=1)

    with _at_slots(engine, [slot], replace):
        yield


def layer_inputs(engine: HFEngine, inputs: dict[str, Tensor], tokens: int) -> list[Tensor]:
    """Image tokens as they enter each layer: [B, tokens, D] per layer."""
    seen: dict[int, Tensor] = {}

    def look(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        def edit(hidden: Tensor, mask: Tensor) -> Tensor:
            seen[layer] = grid_tokens(hidden, mask, tokens).clone()
            return hidden

        return edit

    with ExitStack() as stack:
        for layer in range(len(decoder_layers(engine))):
            stack.enter_context(edited_layer(engine, layer, look(layer)))
        last_logits(engine, inputs)
    return [seen[layer] for layer in range(len(seen))]


def grid_tokens(hidden: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """The image tokens of [B, n, D]: [B, tokens, D], provided that every prompt has as many."""
    return hidden[mask].view(len(hidden), tokens, hidden.shape[-1])


def image_embeddings(
    engine: HFEngine,
    images: Sequence[Image.Image],
    batch_size: int,
    tokens: Sequence[int] | None = None,
) -> Tensor:
    """What the language model receives for each picture: float32 [images, tokens, D], on the CPU.

    The decoder itself is not run. All pictures must have the same number of tokens.

    Args:
        tokens: only these of each picture's, in this order; all where None.
    """
    parts: list[Tensor] = []

    def edit(hidden: Tensor, mask: Tensor) -> Tensor:
        seen = hidden[mask].view(len(hidden), -1, hidden.shape[-1])
        parts.append((seen if tokens is None else seen[:, list(tokens)]).float().cpu())
        raise _SeenError

    for start in range(0, len(images), batch_size):
        queries = [Query("?", (image,)) for image in images[start : start + batch_size]]
        inputs = engine.encode(queries)
        try:
            with edited_embeddings(engine, edit):
                last_logits(engine, inputs)
        except _SeenError:
            continue
    return torch.cat(parts)


class _SeenError(Exception):
    """Ends a forward pass whose image tokens have been seen."""


@contextmanager
def _at_slots(
    engine: HFEngine, slots: Sequence[int] | range, act: Callable[[int, Tensor], Tensor | None]
) -> Iterator[None]:
    """``act(slot, hidden)`` sees hidden states [B, n, D], and may return others in their place."""
    layers = decoder_layers(engine)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = "hidden_states" in kwargs
        changed = act(0, kwargs["hidden_states"] if named else args[0])
        if changed is None:
            return None
        if named:
            return args, {**kwargs, "hidden_states": changed}
        return (changed, *args[1:]), kwargs

    def after(slot: int) -> Callable[[Any, Any, Any], Any]:
        def hook(_: Any, __: Any, output: Any) -> Any:
            whole = isinstance(output, tuple)
            changed = act(slot, output[0] if whole else output)
            return (changed, *output[1:]) if whole and changed is not None else changed

        return hook

    with ExitStack() as stack:
        for slot in slots:
            if slot == 0:
                handle = layers[0].register_forward_pre_hook(before, with_kwargs=True)
            else:
                handle = layers[slot - 1].register_forward_hook(after(slot))
            stack.callback(handle.remove)
        yield
