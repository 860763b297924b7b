"""Steering by its definition: every row of every step through one full attention matrix.

No cache, no second pass, nothing shared with what runs in earnest: what a version of transformers
that nobody has tried is held against. Softmax in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

__all__ = ["Definition", "defined"]

_NAME = "adaptvis_definition"


@dataclass(frozen=True)
class Definition:
    """rows, columns: bool [B, N], the steered rows and image tokens. alpha: float32 [B]."""

    rows: Tensor
    columns: Tensor
    alpha: Tensor


_definition: ContextVar[Definition | None] = ContextVar("adaptvis_definition", default=None)


@contextmanager
def defined(configs: Sequence[Any], definition: Definition | None) -> Iterator[None]:
    """Run the decoder whose attention reads ``configs`` under this module's attention."""
    before = [config._attn_implementation for config in configs]
    token = _definition.set(definition)
    try:
        for config in configs:
            config._attn_implementation = _NAME
        yield
    finally:
        _definition.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """transformers' attention contract: query [B, H, N, D] -> output [B, N, H, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    logits = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    definition = _definition.get()
    if definition is not None:
        # Later steps have more rows and columns; none of them is steered.
        extra = (0, logits.shape[-1] - definition.rows.shape[1])
        rows, columns = (
            nn.functional.pad(chosen, extra) for chosen in (definition.rows, definition.columns)
        )
        block = rows[:, None, :, None] & columns[:, None, None, :]
        logits = torch.where(block, definition.alpha[:, None, None, None] * logits, logits)
    if attention_mask is not None:
        logits = logits + attention_mask[..., : logits.shape[-1]]
    weights = torch.softmax(logits.double(), dim=-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
