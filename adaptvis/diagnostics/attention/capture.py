"""One prompt's attention at chosen rows in every layer and head, without and with steering."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptvis.config import TOKEN_METHODS, SteeringConfig
from adaptvis.diagnostics.attention.parts import (
    LAST_ROW,
    TEXT_ROWS,
    PromptParts,
    prompt_parts,
    word_rows,
)
from adaptvis.diagnostics.attention.rows import (
    RowAttention,
    add_rows,
    mean_row,
    rows_attention,
    summed_attention,
)
from adaptvis.engine import Query
from adaptvis.errors import UnsupportedError
from adaptvis.hf.active import steered_on_top, without_steering
from adaptvis.hf.attention import attention_configs
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.observation import LayerAttention, observed_attention, observed_pass

__all__ = ["PromptAttention", "attend", "observe_prompt"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PromptAttention:
    """Attention of R rows of one prompt in L layers with H heads, over T image tokens.

    rows: label of each row -> its index below: the last prompt token, the average text row, then
        words that were found.
    entropy, system, text, image, markup: float32 [L, R, H], see
        :class:`adaptvis.diagnostics.attention.rows.RowAttention`; the shares add up to 1.
    weights: float32 [L, R, T], on the image tokens, means over the heads.
    tokens: number of tokens of (system prompt, user text, image, markup).
    from_template: see :class:`adaptvis.diagnostics.attention.parts.PromptParts`.
    """

    rows: dict[str, int]
    entropy: Array
    system: Array
    text: Array
    image: Array
    markup: Array
    weights: Array
    tokens: tuple[int, int, int, int]
    from_template: bool


def attend(
    engine: HFEngine,
    query: Query,
    config: SteeringConfig | None = None,
    *,
    words: Sequence[str] = (),
) -> tuple[PromptAttention, PromptAttention]:
    """One prompt's attention without steering, and steered.

    The first look is never steered, whatever the model is patched with. The second is steered by
    what it is patched with and by ``config`` on top; where that is nothing, it is the first again.

    One prompt runs at a time, without a cache, under scaled dot-product attention; of the attention
    itself there are never more than (rows looked at) x (tokens) weights per head. The model is as
    before afterwards, also on errors.

    Raises:
        PromptError: the prompt has no image.
        UnsupportedError: the decoder's attention does not go through transformers' attention
            interface.
    """
    inputs = engine.encode([query])
    ids = inputs["input_ids"][0]
    placeholder = engine.family.placeholder_of(engine.model.config)
    parts = prompt_parts(ids, placeholder, engine.processor, query)
    rows = word_rows(engine.processor.tokenizer, ids, parts, words)
    plain = _Rows(rows, parts)
    with without_steering(engine.model):
        observe_prompt(engine, inputs, plain)
    unsteered = plain.result()
    with steered_on_top(engine.model, config, engine.processor) as active:
        if not active:
            return unsteered, unsteered
        if any(isinstance(one, TOKEN_METHODS) for one in active):
            steered = _Rows(rows, parts)
            observe_prompt(engine, inputs, steered, steered=True)
        else:
            # Rows before the first steered one see nothing of the steering, and are not run again.
            steered = _Rows(rows, parts, plain.layers)
            with torch.inference_mode(), observed_attention(steered):
                engine.model(**inputs, **_last_logits(engine))
    return unsteered, steered.result()


@torch.inference_mode()
def observe_prompt(
    engine: HFEngine, inputs: dict[str, Any], observer: Any, *, steered: bool = False
) -> None:
    """Run one encoded prompt, and show every layer's attention without coefficients on logits.

    Image tokens are as the model makes them: rescaled or amplified if it is patched so.

    Args:
        observer: called with a :class:`adaptvis.hf.observation.LayerAttention` per layer.
        steered: on a model whose attention is steered, show the second pass, too, after the first.

    Raises:
        UnsupportedError: no layer showed anything: the decoder computes attention on its own.
    """
    shown: set[int] = set()

    def watch(attention: LayerAttention) -> None:
        # Only the second pass of steering knows steered columns.
        if attention.columns is not None and not steered:
            return
        shown.add(attention.layer)
        observer(attention)

    decoder = engine.family.decoder_of(engine.model)
    with observed_pass(attention_configs(decoder), watch):
        engine.model(**{**inputs, "use_cache": False}, **_last_logits(engine))
    if not shown:
        raise UnsupportedError(
            f"The decoder {type(decoder).__name__} does not use transformers' attention interface, "
            "so its attention cannot be looked at; use a model class of transformers"
        )


def _last_logits(engine: HFEngine) -> dict[str, Any]:
    """Only the last row's logits, where the model can: all of them are N x vocabulary."""
    # A patched model's forward is wrapped; its class's signature says the same.
    known = inspect.signature(type(engine.model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}


class _Rows:
    """Collects the chosen rows of every layer that is shown: single ones, and the sum of the rest.

    A steered pass holds the last row, or all text rows; what it does not hold stays as it was.
    """

    def __init__(
        self,
        words: dict[str, int],
        parts: PromptParts,
        layers: dict[int, tuple[RowAttention, RowAttention]] | None = None,
    ) -> None:
        device = parts.text.device
        self.words = words
        self.parts = parts
        self.single = torch.tensor([len(parts.text) - 1, *words.values()], device=device)
        # The last row is text in all prompts but those that end in an image.
        self.rest = torch.where(parts.behind[:-1])[0]
        self.layers = {} if layers is None else dict(layers)

    def __call__(self, attention: LayerAttention) -> None:
        inside = self.single >= attention.first_row
        single = _on_cpu(rows_attention(attention, self.single[inside], self.parts))
        if not len(self.rest):
            rest = _on_cpu(rows_attention(attention, self.single[:1], self.parts))
            rest = RowAttention(*(torch.zeros_like(field) for field in rest))
        elif bool((self.rest >= attention.first_row).all()):
            rest = _on_cpu(summed_attention(attention, self.rest, self.parts))
        else:
            rest = self.layers[attention.layer][1]
        if not bool(inside.all()):
            index = torch.where(inside)[0].cpu()
            old = self.layers[attention.layer][0]
            merged = (o.index_copy(1, index, n) for o, n in zip(old, single, strict=True))
            single = RowAttention(*merged)
        self.layers[attention.layer] = single, rest

    def result(self) -> PromptAttention:
        layers = [self._rows(*self.layers[layer]) for layer in sorted(self.layers)]
        entropy, system, text, weights = (
            np.stack([getattr(rows, name).transpose(0, 1).numpy() for rows in layers])
            for name in ("entropy", "system", "text", "weights")
        )
        parts = self.parts
        system_tokens, text_tokens, image_tokens, markup_tokens = (
            int(part.sum()) for part in (parts.system, parts.text, parts.image, parts.markup)
        )
        image = weights.sum(axis=-1)
        return PromptAttention(
            rows={row: i for i, row in enumerate((LAST_ROW, TEXT_ROWS, *self.words))},
            entropy=entropy,
            system=system,
            text=text,
            image=image,
            # What is left, without the rounding where there is none.
            markup=(1 - system - text - image).clip(min=0) * bool(markup_tokens),
            weights=weights.mean(axis=2),
            tokens=(system_tokens, text_tokens, image_tokens, markup_tokens),
            from_template=parts.from_template,
        )

    def _rows(self, single: RowAttention, rest: RowAttention) -> RowAttention:
        last = RowAttention(*(field[:, :1] for field in single))
        ends_in_text = bool(self.parts.behind[-1])
        summed = add_rows(rest, last) if ends_in_text or not len(self.rest) else rest
        mean = mean_row(summed, max(len(self.rest) + ends_in_text, 1))
        words = (field[:, 1:] for field in single)
        return RowAttention(
            *(torch.cat(fields, dim=1) for fields in zip(last, mean, words, strict=True))
        )


def _on_cpu(rows: RowAttention) -> RowAttention:
    return RowAttention(*(field.cpu() for field in rows))
