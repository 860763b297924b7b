"""What a few rows of one layer attend to: the weights on the image, its entropy, and the shares.

Sources: normalised entropy, *Beyond Semantics* (arXiv 2503.17349v2); shares and CMB, the same,
equation of Cross-Modality Balance.

In torch there is a block of H * r * W weights at a time, at most 16 MiB or one row. Where the
Triton kernels serve (see :mod:`adaptvis.steering.backend`), ``image_attention`` computes the same
from tiles, and only the weights on the image exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adaptvis.diagnostics.attention.parts import PromptParts
from adaptvis.hf.observation import LayerAttention
from adaptvis.steering.backend import kernels_for

__all__ = [
    "RowAttention",
    "add_rows",
    "balance",
    "mean_row",
    "rows_attention",
    "summed_attention",
]

_BLOCK_BYTES = 16 * 2**20
_LARGEST_KERNEL_HEAD = 256


class RowAttention(NamedTuple):
    """Attention of r rows of one prompt in one layer with H heads, over T image tokens.

    weights: float32 [H, r, T], of the full softmax; 0 for image tokens that a row does not see.
    entropy: float32 [H, r], entropy of the weights renormalised over the image tokens that the row
        sees, over the logarithm of their number; NaN where it sees fewer than two.
    system, text: float32 [H, r], attention on these parts of the prompt. The image's share is the
        sum of ``weights``; what is left to 1 is the markup's.
    seen: bool [1, r, T], the image tokens that a row sees.
    """

    weights: Tensor
    entropy: Tensor
    system: Tensor
    text: Tensor
    seen: Tensor


def mean_row(sums: RowAttention, count: int) -> RowAttention:
    """One row that attends as ``count`` rows do on average.

    Args:
        sums: their weights and shares, summed (r = 1); ``seen`` by any of them. Its entropy is not
            read: it is that of the average attention, not the average of entropies.
    """
    weights = sums.weights / count
    total = weights.sum(dim=-1, keepdim=True)
    renormalised = weights / total.clamp(min=torch.finfo(weights.dtype).tiny)
    entropy = torch.special.entr(renormalised).sum(dim=-1)
    tokens = sums.seen.sum(dim=-1)
    entropy = (entropy / tokens.clamp(min=2).log()).masked_fill(tokens < 2, torch.nan)
    return RowAttention(weights, entropy, sums.system / count, sums.text / count, sums.seen)


def _sum_rows(rows: RowAttention) -> RowAttention:
    weights, system, text = (
        field.sum(dim=1, keepdim=True) for field in (rows.weights, rows.system, rows.text)
    )
    return RowAttention(weights, system * torch.nan, system, text, rows.seen.any(1, keepdim=True))


def add_rows(*rows: RowAttention) -> RowAttention:
    """The sum of such sums, and of single rows."""
    weights, entropy, system, text, seen = zip(*rows, strict=True)
    return RowAttention(
        sum(weights), entropy[0], sum(system), sum(text), torch.stack(seen).any(dim=0)
    )


def balance(image: Any, text: Any) -> Any:
    """Cross-Modality Balance: image / (image + user text), the system prompt left out.

    Any arrays of attention shares; 0 where both are 0 (the denominator is at least 1e-8, as in the
    authors' code).
    """
    total = image + text
    return image / total.clip(min=1e-8)


def rows_attention(
    attention: LayerAttention, positions: Tensor, parts: PromptParts
) -> RowAttention:
    """Attention of the rows at ``positions`` (int64 [r], among all tokens seen) of one prompt.

    Args:
        attention: of a pass with one prompt, which holds these rows.
        parts: of the whole prompt.
    """
    found = list(_blocks(attention, positions, parts))
    return RowAttention(*(torch.cat(field, dim=1) for field in zip(*found, strict=True)))


def summed_attention(
    attention: LayerAttention, positions: Tensor, parts: PromptParts
) -> RowAttention:
    """The sums that :func:`mean_row` takes, over these rows; never more than a block at once."""
    sums: RowAttention | None = None
    for block in _blocks(attention, positions, parts):
        sums = _sum_rows(block) if sums is None else add_rows(sums, _sum_rows(block))
    if sums is None:
        raise ValueError("a sum needs at least one row")
    return sums


def _blocks(
    attention: LayerAttention, positions: Tensor, parts: PromptParts
) -> Iterator[RowAttention]:
    rows = positions.to(attention.query.device) - attention.first_row
    kernels = kernels_for(attention.query)
    if kernels is not None and not _kernel_can(attention, parts):
        kernels = None
    per_row = 4 * attention.query.shape[1] * attention.key.shape[2]
    for block in rows.split(max(1, _BLOCK_BYTES // per_row)):
        if kernels is None:
            yield _by_rows(attention, block, parts)
        else:
            yield _by_kernel(kernels, attention, block, parts)


def _on_show(attention: LayerAttention, part: Tensor) -> Tensor:
    return part.to(attention.query.device)[attention.first_column : attention.tokens_seen]


def _with_hidden(attention: LayerAttention, weights: Tensor, parts: PromptParts) -> Tensor:
    """Weights of the image tokens on show -> of all; windows have dropped the first ones."""
    missing = int(parts.image[: attention.first_column].sum())
    return nn.functional.pad(weights, (missing, 0))


def _by_rows(attention: LayerAttention, rows: Tensor, parts: PromptParts) -> RowAttention:
    logits = attention.steered_logits(rows)[0]
    weights = torch.softmax(logits, dim=-1)
    image = _on_show(attention, parts.image)
    on_image = logits[..., image]
    seen = on_image > torch.finfo(logits.dtype).min / 2
    # From the logits: renormalised weights would be 0 / 0 where the image's share underflows.
    log_image = torch.log_softmax(on_image.masked_fill(~seen, -torch.inf), dim=-1)
    surprise = torch.where(seen, -log_image, 0.0)
    count = seen.sum(dim=-1)
    entropy = (torch.exp(-surprise) * surprise).sum(dim=-1) / count.clamp(min=2).log()
    return RowAttention(
        _with_hidden(attention, weights[..., image], parts),
        entropy.masked_fill(count < 2, torch.nan),
        weights[..., _on_show(attention, parts.system)].sum(dim=-1),
        weights[..., _on_show(attention, parts.text)].sum(dim=-1),
        _with_hidden(attention, seen[:1], parts),
    )


def _kernel_can(attention: LayerAttention, parts: PromptParts) -> bool:
    mask, columns = attention.mask, attention.columns
    one_mask = mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)
    # The kernel steers the very columns that it looks at.
    steers_image = (
        columns is None
        or attention.row_alpha is None
        or torch.equal(columns[0], _on_show(attention, parts.image))
    )
    return one_mask and steers_image and attention.query.shape[-1] <= _LARGEST_KERNEL_HEAD


def _by_kernel(
    kernels: Any, attention: LayerAttention, rows: Tensor, parts: PromptParts
) -> RowAttention:
    device = attention.query.device
    image = torch.where(_on_show(attention, parts.image))[0]
    visible = attention.visible(rows).to(device)
    visible = visible.expand(1, 1, len(rows), attention.key.shape[2]).contiguous()
    options: dict[str, Any] = {
        "visible": visible,
        "scaling": attention.scaling,
        "softcap": attention.softcap,
    }
    query = attention.query[:, :, rows].contiguous()
    steered: dict[str, Any] = {}
    if attention.row_alpha is not None:
        alpha = attention.row_alpha[:, rows.to(attention.row_alpha.device)]
        steered = {"row_alpha": alpha.float().to(device).contiguous(), "heads": attention.heads}
    on_image = kernels.image_attention(
        query, attention.key, image_positions=image[None], **options, **steered
    )

    def share_of(part: Tensor) -> Tensor:
        columns = torch.where(_on_show(attention, part))[0]
        if not len(columns):
            return torch.zeros_like(on_image.share[0])
        found = kernels.image_attention(
            query, attention.key, image_positions=columns[None], **options
        )
        # This call's softmax knows no coefficient: its sum is brought to the first one's.
        return (found.share * torch.exp(found.log_sum_exp - on_image.log_sum_exp))[0]

    seen = visible[0, :, :, image]
    count = seen[0].sum(dim=-1)
    return RowAttention(
        _with_hidden(attention, on_image.weights[0], parts),
        on_image.entropy[0].masked_fill(count < 2, torch.nan),
        share_of(parts.system),
        share_of(parts.text),
        _with_hidden(attention, seen, parts),
    )
