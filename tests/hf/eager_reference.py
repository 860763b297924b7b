"""Steering the slow way, as an oracle: full attention matrices, no cache, no second pass.

Every step runs the whole sequence again through eager attention written here, and multiplies the
logits of the steered rows in every layer. Nothing of the package is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "reference_steering"


@dataclass
class Spec:
    """rows, columns: bool [B, N0] over the prompt; alpha: [B]; later rows steered if asked."""

    rows: Tensor
    columns: Tensor
    alpha: Tensor
    generated_rows: bool = False
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


_spec: Spec | None = None


def _attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
    spec = _spec
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    logits = torch.einsum("bhid,bhjd->bhij", query, key) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if spec is not None and (spec.layers is None or module.layer_idx in spec.layers):
        length = logits.shape[-1]
        extra = length - spec.rows.shape[1]
        rows = torch.nn.functional.pad(spec.rows, (0, extra), value=spec.generated_rows)
        columns = torch.nn.functional.pad(spec.columns, (0, extra))
        repeats = len(logits) // len(rows)
        rows, columns = rows.repeat_interleave(repeats, 0), columns.repeat_interleave(repeats, 0)
        # Over a cache, the rows are the last ones.
        rows = rows[:, -logits.shape[-2] :]
        alpha = spec.alpha.repeat_interleave(repeats, 0)
        for head in range(logits.shape[1]):
            if spec.heads is None or head in spec.heads:
                for row in range(len(logits)):
                    block = torch.outer(rows[row], columns[row])
                    logits[row, head][block] *= alpha[row]
    if attention_mask is not None:
        logits = logits + attention_mask[..., : logits.shape[-1]]
    weights = torch.softmax(logits.double(), dim=-1).to(query.dtype)
    return torch.einsum("bhij,bhjd->bihd", weights, value).contiguous(), weights


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextlib.contextmanager
def reference(decoder, spec: Spec | None) -> Iterator[None]:
    """Run ``decoder`` under this module's attention."""
    global _spec
    before, _spec = decoder.config._attn_implementation, spec
    decoder.config._attn_implementation = NAME
    try:
        yield
    finally:
        decoder.config._attn_implementation, _spec = before, None


@torch.no_grad()
def reference_generate(model, decoder, inputs, spec: Spec | None, steps: int, **kwargs):
    """Greedy tokens [B, N + steps] and raw logits [steps][B, V], recomputed in full every step."""
    with reference(decoder, spec):
        result = model.generate(
            **inputs,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            use_cache=False,
            output_logits=True,
            return_dict_in_generate=True,
            **kwargs,
        )
    return result.sequences, torch.stack(result.logits)
