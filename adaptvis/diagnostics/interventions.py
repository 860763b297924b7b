"""Three interventions on questions about three objects (Dual Mechanisms, sections 4 and 5).

Each returns the probability of every name per question; what they mean is
:mod:`adaptvis.diagnostics.interchange`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adaptvis.data.three_objects import Axis, Item, Layout, Pair
from adaptvis.data.three_objects.drawing import blank, draw_pictures, paste
from adaptvis.diagnostics.hooks import decoder_layers, edited_embeddings, edited_layer
from adaptvis.diagnostics.residual_stream import (
    grid_tokens,
    image_embeddings,
    last_logits,
    last_tokens,
    layer_inputs,
    replaced_last_token,
    slot_count,
)
from adaptvis.diagnostics.three_object_questions import Questions

__all__ = ["REGIONS", "ablated", "interchanged", "swapped"]

REGIONS = ("object", "background", "strip")
"""Tokens of the two outer objects, the rest of their strips, and both together."""


def interchanged(questions: Questions, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Clean questions whose last token is the counterfactual's in one slot at a time.

    Returns:
        [slots, pairs, names] with the interchange, and [pairs, names] of the clean questions.
    """
    engine = questions.engine
    theirs, _ = last_tokens(engine, questions.encode([pair.counterfactual for pair in pairs]))
    inputs = questions.encode([pair.clean for pair in pairs])
    clean = questions.probabilities(last_logits(engine, inputs))
    patched = []
    for slot in range(slot_count(engine)):
        with replaced_last_token(engine, slot, theirs[slot]):
            patched.append(questions.probabilities(last_logits(engine, inputs)))
    return torch.stack(patched), clean


def swapped(questions: Questions, items: Sequence[Item]) -> dict[str, Tensor]:
    """Image tokens exchanged crosswise with the mirrored scene, in one layer at a time.

    In the mirrored scene the same three things lie in the opposite order. Its last block goes where
    the first one is, and its first where the last one is: every place keeps its thing, and what
    changes is what the vision encoder wrote about places.

    Returns:
        [layers, items, names] for each of :data:`REGIONS`.
    """
    engine, layout = questions.engine, questions.layout
    mirrored = questions.encode([item.mirrored() for item in items])
    sources = layer_inputs(engine, mirrored, layout.grid**2)
    inputs = questions.encode(items)
    result = {}
    for region in REGIONS:
        first, last = _blocks(layout, [item.axis for item in items], region)
        per_layer = []
        for layer in range(len(decoder_layers(engine))):
            with edited_layer(engine, layer, _crosswise(sources[layer], first, last)):
                per_layer.append(questions.probabilities(last_logits(engine, inputs)))
        result[region] = torch.stack(per_layer)
    return result


def ablated(questions: Questions, items: Sequence[Item]) -> Tensor:
    """Vision-side ablation: the language model gets things, but no places, from the encoder.

    Every thing's tokens are those of a picture with this thing alone in the middle, all others
    those of an empty picture.

    Returns:
        [items, names].
    """
    engine, layout = questions.engine, questions.layout
    pictures = draw_pictures(questions.kind, layout.size * layout.cell)
    names = sorted({name for item in items for name in item.names})
    alone = [paste(layout, "horizontal", pictures, (None, name, None)) for name in names]
    embeddings = image_embeddings(engine, [blank(layout), *alone], max(1, len(items)))
    middle = layout.slots("horizontal")[1].tokens(layout.grid)
    things = {name: embeddings[i + 1, middle] for i, name in enumerate(names)}
    made = embeddings[0].repeat(len(items), 1, 1)
    for row, item in enumerate(items):
        for name, slot in zip(item.names, layout.slots(item.axis), strict=True):
            made[row, slot.tokens(layout.grid)] = things[name]

    def edit(hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.masked_scatter(mask[:, :, None], made.to(hidden))

    inputs = questions.encode(items)
    with edited_embeddings(engine, edit):
        return questions.probabilities(last_logits(engine, inputs))


def _blocks(layout: Layout, axes: Sequence[Axis], region: str) -> tuple[Tensor, Tensor]:
    """Grid tokens of the first and of the last block, in the same order: int64 [B, k] each."""
    rows: tuple[list[list[int]], list[list[int]]] = ([], [])
    for axis in axes:
        first, _, last = layout.slots(axis)
        for into, strip, slot in zip(rows, layout.strips(axis), (first, last), strict=True):
            thing = slot.tokens(layout.grid)
            whole = strip.tokens(layout.grid)
            into.append(
                thing
                if region == "object"
                else whole
                if region == "strip"
                else [token for token in whole if token not in thing]
            )
    return torch.tensor(rows[0]), torch.tensor(rows[1])


def _crosswise(source: Tensor, first: Tensor, last: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """An edit that puts ``source``'s last block into the first, and its first into the last."""

    def edit(hidden: Tensor, mask: Tensor) -> Tensor:
        tokens = grid_tokens(hidden, mask, source.shape[1]).clone()
        row = torch.arange(len(tokens))[:, None]
        tokens[row, first] = source[row, last].to(tokens)
        tokens[row, last] = source[row, first].to(tokens)
        return hidden.masked_scatter(mask[:, :, None], tokens)

    return edit
