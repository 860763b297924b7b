"""What a shift of the image's positions does to one row of attention, in closed form.

*Beyond Semantics* v2 (arXiv 2503.17349), RoPE sensitivity probe and appendix A: with attention
alpha over all keys that the row sees, image tokens V and alpha_V the sum of their weights,

    delta alpha_V = alpha_V(steps) - alpha_V(0)
    delta g_V     = sum_v alpha_v / alpha_V * (l_v(steps) - l_v(0)) / steps
    d alpha_V / d phi = alpha_V (1 - alpha_V) (g_V - g_T)

where l are logits and g_T = 0, because nothing but the image is moved. The first-order prediction
of delta alpha_V is therefore alpha_V (1 - alpha_V) * delta g_V * steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from adaptvis.diagnostics.rope.rotation import rotate
from adaptvis.hf.observation import LayerAttention

__all__ = ["Sensitivity", "row_sensitivity", "shift_sensitivity"]


class Sensitivity(NamedTuple):
    """Of each head, float64 [H].

    share: alpha_V before the shift. change: delta alpha_V. gradient: delta g_V, in logits per
    position; NaN where the row sees no image token. predicted: alpha_V (1 - alpha_V) delta g_V
    times the steps; 0 there.
    """

    share: Tensor
    change: Tensor
    gradient: Tensor
    predicted: Tensor


def row_sensitivity(logits: Tensor, shifted: Tensor, image: Tensor, steps: float) -> Sensitivity:
    """From a row's logits before and after the shift.

    Args:
        logits, shifted: [H, N]; the dtype's lowest number, in both, where the row sees nothing.
        image: bool [N]. steps: how far the image was moved, in positions; not 0.
    """
    before = torch.softmax(logits, dim=-1)
    after = torch.softmax(shifted, dim=-1)
    share = before[:, image].sum(dim=-1)
    moved = (shifted - logits)[:, image] / steps
    # Renormalised from the logits: a share that underflows is not divided by.
    within = torch.softmax(logits[:, image], dim=-1)
    sees = (logits[:, image] > torch.finfo(logits.dtype).min / 2).any(dim=-1)
    gradient = torch.where(sees, (within * moved).sum(dim=-1), torch.nan)
    return Sensitivity(
        share=share,
        change=after[:, image].sum(dim=-1) - share,
        gradient=gradient,
        predicted=torch.nan_to_num(share * (1 - share) * gradient * steps),
    )


def shift_sensitivity(
    attention: LayerAttention, image: Tensor, frequencies: Tensor, steps: float
) -> Sensitivity:
    """The last row of one prompt in one layer, with the image's keys turned by ``steps`` positions.

    In float64, where the device has it: the changes are small differences of large numbers.

    Args:
        image: bool [N], the image tokens of the prompt.
        frequencies: see :func:`adaptvis.diagnostics.rope.rotation.inverse_frequencies`.
    """
    image = image[attention.first_column : attention.tokens_seen]
    group = attention.query.shape[1] // attention.key.shape[1]
    # One key head at a time: float64 copies of all keys would be the largest tensors around.
    found = [
        _of_group(attention, slice(g * group, (g + 1) * group), g, image, frequencies, steps)
        for g in range(attention.key.shape[1])
    ]
    return Sensitivity(*(torch.cat(field) for field in zip(*found, strict=True)))


def _of_group(
    attention: LayerAttention,
    heads: slice,
    key_head: int,
    image: Tensor,
    frequencies: Tensor,
    steps: float,
) -> Sensitivity:
    """The query heads that share one key head."""
    device = attention.query.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    row = torch.tensor([attention.query.shape[2] - 1], device=device)
    mask = attention.mask
    if mask is not None and mask.shape[1] > 1:
        mask = mask[:, heads]
    key = attention.key[:, key_head : key_head + 1].to(dtype)
    before = replace(attention, query=attention.query[:, heads], key=key, mask=mask)
    image = image.to(device)
    turned = key.clone()
    turned[:, :, image] = rotate(key[:, :, image], frequencies.to(device, dtype) * steps)
    after = replace(before, key=turned)
    return row_sensitivity(
        before.steered_logits(row, dtype)[0, :, 0],
        after.steered_logits(row, dtype)[0, :, 0],
        image,
        steps,
    )
