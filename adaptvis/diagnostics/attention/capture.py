"""One prompt's attention at chosen rows in every layer and head, without and with steering."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptvis.config import NormRescale, SteeringConfig
from adaptvis.diagnostics.attention.parts import PromptParts, prompt_parts, row_positions
from adaptvis.diagnostics.attention.rows import RowAttention, rows_attention
from adaptvis.engine import Query
from adaptvis.errors import AdaptVisWarning, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.observation import LayerAttention, observed_attention, observed_pass
from adaptvis.hf.patch import steer
from adaptvis.hf.patched_model import attention_configs

__all__ = ["PromptAttention", "attend", "observe_prompt"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PromptAttention:
    """Attention of R rows of one prompt in L layers with H heads, over T image tokens.

    rows: label of each row -> its index below: the last prompt token, then words that were found.
    entropy, system, text, image: float32 [L, R, H], see
        :class:`adaptvis.diagnostics.attention.rows.RowAttention`; ``image`` is the image's share.
    weights: float32 [L, R, T], on the image tokens, means over the heads.
    tokens: number of tokens of (system prompt, user text, image).
    """

    rows: dict[str, int]
    entropy: Array
    system: Array
    text: Array
    image: Array
    weights: Array
    tokens: tuple[int, int, int]


def attend(
    engine: HFEngine,
    query: Query,
    config: SteeringConfig | None = None,
    *,
    words: Sequence[str] = (),
) -> tuple[PromptAttention, PromptAttention]:
    """One prompt's attention without steering, and steered by ``config`` (None: the same again).

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
    parts = prompt_parts(ids, engine.family.placeholder_of(engine.model.config))
    rows = row_positions(engine.processor.tokenizer, ids, parts, words)
    positions = torch.tensor(list(rows.values()), device=ids.device)
    plain = _Rows(positions, parts)
    observe_prompt(engine, inputs, plain)
    unsteered = plain.result(list(rows))
    if config is None:
        return unsteered, unsteered
    if isinstance(config, NormRescale):
        changed = _Rows(positions, parts)
        with steer(engine.model, config, processor=engine.processor):
            observe_prompt(engine, inputs, changed)
        return unsteered, changed.result(list(rows))
    # Rows before the first steered one see nothing of the steering, and are not run again.
    steered = _Rows(positions, parts, dict(plain.layers))
    with (
        torch.inference_mode(),
        warnings.catch_warnings(),
        steer(engine.model, config, processor=engine.processor),
        observed_attention(steered),
    ):
        warnings.simplefilter("ignore", AdaptVisWarning)
        engine.model(**inputs, **_last_logits(engine))
    return unsteered, steered.result(list(rows))


@torch.inference_mode()
def observe_prompt(engine: HFEngine, inputs: dict[str, Any], observer: Any) -> None:
    """Run one encoded prompt without steering, and show every layer's attention.

    Args:
        observer: called with a :class:`adaptvis.hf.observation.LayerAttention` per layer.

    Raises:
        UnsupportedError: no layer showed anything: the decoder computes attention on its own.
    """
    shown: set[int] = set()

    def watch(attention: LayerAttention) -> None:
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
    """Collects the chosen rows of every layer that is shown."""

    def __init__(
        self,
        positions: Tensor,
        parts: PromptParts,
        layers: dict[int, RowAttention] | None = None,
    ) -> None:
        self.positions = positions
        self.parts = parts
        self.layers = {} if layers is None else layers

    def __call__(self, attention: LayerAttention) -> None:
        inside = self.positions >= attention.first_row
        if not bool(inside.any()):
            return
        chosen = rows_attention(attention, self.positions[inside], self.parts)
        new = RowAttention(
            chosen.weights.mean(dim=0, keepdim=True).cpu(),
            chosen.entropy.cpu(),
            chosen.system.cpu(),
            chosen.text.cpu(),
        )
        old = self.layers.get(attention.layer)
        if old is not None:
            index = torch.where(inside)[0].cpu()
            merged = [o.index_copy(1, index, n) for o, n in zip(old, new, strict=True)]
            new = RowAttention(*merged)
        self.layers[attention.layer] = new

    def result(self, labels: Sequence[str]) -> PromptAttention:
        ordered = [self.layers[layer] for layer in sorted(self.layers)]
        system, text, entropy = (
            torch.stack([getattr(layer, name) for layer in ordered]).transpose(1, 2).numpy()
            for name in ("system", "text", "entropy")
        )
        weights = torch.stack([layer.weights[0] for layer in ordered]).numpy()
        counts = (int(part.sum()) for part in (self.parts.system, self.parts.text))
        tokens = (*counts, int(self.parts.image.sum()))
        return PromptAttention(
            rows={label: index for index, label in enumerate(labels)},
            entropy=entropy,
            system=system,
            text=text,
            image=1 - system - text,
            weights=weights,
            tokens=tokens,  # type: ignore[arg-type]
        )


