"""Looking at attention as it happens: queries and keys after rotary embedding, layer by layer.

transformers hands them to the attention function of a layer. A pass inside :func:`observed_pass`
runs under a function that shows them to an observer and then computes scaled dot-product attention;
the second pass of steering shows them as well. No attention matrix is made: an observer asks for
the rows it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptvis.errors import UnsupportedError

__all__ = [
    "OBSERVED",
    "LayerAttention",
    "has_softcap",
    "observed_attention",
    "observed_pass",
    "show",
]

OBSERVED = "adaptvis_observed"

# Rows of one block where a layer's attention has to be computed from its weights (soft-caps).
_BLOCK = 64


@dataclass(frozen=True)
class LayerAttention:
    """What goes into the attention of one layer in one pass.

    B prompts, H query heads, G key heads, R rows of this pass, the last of N tokens seen; W keys on
    show, the last of these N (a sliding window's cache drops old ones).

    layer: counted from 0. module: the attention module.
    query: [B, H, R, D]. key: [B, G, W, D]. Both after rotary embedding.
    mask: what transformers built, broadcastable to [B, H, R, W], boolean (True: may attend) or
        additive; None is causal.
    columns: bool [B, W], the steered image tokens, row_alpha: float32 [B, R], their coefficient in
        each row, heads: bool [H], the steered heads (None is all); None throughout where nothing is
        steered.
    """

    layer: int
    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None
    tokens_seen: int
    columns: Tensor | None = None
    row_alpha: Tensor | None = None
    heads: Tensor | None = None

    @property
    def first_row(self) -> int:
        """Position of this pass's first row among the tokens seen."""
        return self.tokens_seen - self.query.shape[2]

    @property
    def first_column(self) -> int:
        """Position of the first key on show among the tokens seen."""
        return self.tokens_seen - self.key.shape[2]

    def visible(self, rows: Tensor) -> Tensor:
        """The mask of these rows (indices within the pass, [r]): bool or additive, [.., r, W]."""
        if self.mask is not None:
            return self.mask[:, :, rows.to(self.mask.device)]
        columns = torch.arange(self.key.shape[2], device=rows.device) + self.first_column
        return (columns <= (rows + self.first_row)[:, None])[None, None]

    def logits(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Raw logits of these rows, [B, H, r, W]: scaled and soft-capped, neither steered nor
        masked. Keys are not repeated for grouped heads.
        """
        batch, num_heads, _, size = self.query.shape
        groups = self.key.shape[1]
        chosen = self.query[:, :, rows.to(self.query.device)].to(dtype)
        folded = chosen.reshape(batch, groups, -1, size)
        logits = folded @ self.key.to(dtype).transpose(-1, -2) * self.scaling
        logits = logits.view(batch, num_heads, len(rows), -1)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def steered_logits(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the softmax of these rows (indices within the pass, [r]) takes: [B, H, r, W].

        Columns that a row does not see have the dtype's lowest number, so that a row of padding
        that sees nothing stays a number.
        """
        logits = self.logits(rows, dtype)
        if self.columns is not None and self.row_alpha is not None:
            steered = self.columns[:, None, None, :]
            if self.heads is not None:
                steered = steered & self.heads[None, :, None, None]
            alpha = self.row_alpha[:, rows.to(self.row_alpha.device)].to(logits.device, dtype)
            logits = torch.where(steered, logits * alpha[:, None, :, None], logits)
        mask = self.visible(rows.to(logits.device)).to(logits.device)
        if mask.dtype == torch.bool:
            return logits.masked_fill(~mask, torch.finfo(dtype).min)
        return (logits + mask.to(dtype)).clamp(min=torch.finfo(dtype).min)

    def weights(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Attention weights of these rows (indices within the pass, [r]) as steered: [B, H, r, W].

        The memory is 4 * B * H * r * W bytes, whatever the number of rows of the pass.
        """
        return torch.softmax(self.steered_logits(rows, dtype), dim=-1)


Observer = Callable[[LayerAttention], None]
_observer: ContextVar[Observer | None] = ContextVar("adaptvis_observer", default=None)
# The model's own attention implementation while a pass is observed.
_base: ContextVar[str | None] = ContextVar("adaptvis_observed_base", default=None)


@contextmanager
def observed_attention(observer: Observer) -> Iterator[None]:
    """Show every layer of the observed and of the steered passes in this block to ``observer``."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def has_softcap(implementation: str | None) -> bool:
    """Whether an attention implementation of transformers soft-caps logits where a model asks.

    Scaled dot-product attention has no soft-cap, and transformers leaves it out without a word.
    """
    return "sdpa" not in (implementation or "")


def show(make: Callable[[], LayerAttention]) -> None:
    """Give a layer's attention to the observer, if there is one."""
    observer = _observer.get()
    if observer is not None:
        observer(make())


@contextmanager
def observed_pass(configs: Sequence[Any], observer: Observer) -> Iterator[None]:
    """Run the decoder whose attention reads ``configs`` without steering, showing every layer.

    Attention is scaled dot-product attention whatever the model's own implementation; where a
    prompt has no padding, window or prefix, transformers makes no mask and torch no matrix.
    """
    previous = [config._attn_implementation for config in configs]
    token = _base.set(previous[0])
    try:
        with observed_attention(observer):
            for config in configs:
                config._attn_implementation = OBSERVED
            yield
    finally:
        for config, name in zip(configs, previous, strict=True):
            config._attn_implementation = name
        _base.reset(token)


def _observed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention contract: query [B, H, R, D] -> output [B, R, H, D], no weights."""
    if kwargs.get("s_aux") is not None:
        raise UnsupportedError(
            "Attention sinks (s_aux) are not supported; look at a model without them"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    softcap = softcap if has_softcap(_base.get()) else None
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[2]]
    attention = LayerAttention(
        layer=int(module.layer_idx),  # type: ignore[arg-type]
        module=module,
        query=query,
        key=key,
        mask=attention_mask,
        scaling=scaling,
        softcap=softcap,
        tokens_seen=key.shape[2],
    )
    show(lambda: attention)
    if softcap is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    # torch's kernels have no soft-cap; blocks of rows keep the matrix from existing.
    rows = torch.arange(query.shape[2], device=query.device)
    group = query.shape[1] // key.shape[1]
    repeated = value.repeat_interleave(group, dim=1).float()
    outputs = [attention.weights(block) @ repeated for block in rows.split(_BLOCK)]
    output = torch.cat(outputs, dim=2).to(query.dtype)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(OBSERVED, torch.compiler.disable(_observed_attention_forward))
AttentionMaskInterface.register(OBSERVED, sdpa_mask)
