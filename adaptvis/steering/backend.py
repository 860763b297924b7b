"""The backend switch: the one place that decides between Triton kernels and torch.

Tensors on a CUDA or ROCm device in float32, float16 or bfloat16 go to ``adaptvis_kernels``; on any
other device, and where Triton cannot be imported, torch computes the same. So does whatever the
kernels do not do: gradients through attention, heads larger than 256, masks that are not boolean or
differ between heads, attention weights, embeddings of more than 16384 dimensions. Both meet the
same definition (:func:`adaptvis.steering.attention.reference_attention`); they differ by rounding
only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.steering import attention, norms, policy

__all__ = ["decide", "kernels_for", "override_backend", "rescale_norms", "steered_attention"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256
_LARGEST_HIDDEN_SIZE = 16384
# The decode kernel splits long contexts over the device; from here on the rows fill it anyway.
_MOST_DECODE_ROWS = 128

_override: ContextVar[Literal["triton", "torch"] | None] = ContextVar(
    "adaptvis_backend", default=None
)


@contextmanager
def override_backend(backend: Literal["triton", "torch"]) -> Iterator[None]:
    """Use this backend whatever the device; for tests, in Triton's interpreter for instance."""
    token = _override.set(backend)
    try:
        yield
    finally:
        _override.reset(token)


@cache
def _load_kernels() -> ModuleType | None:
    try:
        return importlib.import_module("adaptvis_kernels")
    except ImportError as error:
        # Only Triton may be missing; a broken package must not go unnoticed.
        if (error.name or "").split(".")[0] != "triton":
            raise
        return None


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """``adaptvis_kernels`` where it serves tensors such as this one, else None."""
    override = _override.get()
    if override == "torch" or tensor.dtype not in _DTYPES:
        return None
    if override == "triton" or tensor.device.type == "cuda":
        return _load_kernels()
    return None


def steered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    image_columns: Tensor,
    row_alpha: Tensor,
    mask: Tensor | None,
    scaling: float,
    heads: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Steered attention for the last rows [B, H, R, D]; the output of the definition alone.

    Arguments as in :func:`adaptvis.steering.attention.reference_attention`; ``mask`` None means
    that every row sees every column.
    """
    batch, rows = query.shape[0], query.shape[2]
    columns = key.shape[2]
    kernels = kernels_for(query)
    if kernels is not None and _has_kernel(query, key, value, mask):
        visible = None
        if mask is not None:
            visible = mask[:, 0].expand(batch, rows, columns)
        elif rows > 1:
            visible = torch.ones(1, 1, 1, dtype=torch.bool, device=query.device)
            visible = visible.expand(batch, rows, columns)
        attend = kernels.steered_decode if rows <= _MOST_DECODE_ROWS else kernels.steered_prefill
        output: Tensor = attend(
            query,
            key,
            value,
            row_alpha=row_alpha.float(),
            image_columns=image_columns,
            heads=heads,
            visible=visible,
            scaling=scaling,
            softcap=softcap,
        )
        return output
    output, _ = attention.steered_attention(
        query,
        key,
        value,
        image_columns=image_columns,
        row_alpha=row_alpha,
        mask=mask,
        scaling=scaling,
        heads=heads,
        softcap=softcap,
    )
    return output


def _has_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)):
        return False
    if query.shape[-1] > _LARGEST_HEAD or value.shape != key.shape:
        return False
    if key.dtype != query.dtype or value.dtype != query.dtype:
        return False
    return mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)


def decide(config: ScalingVis | AdaptVis, logits: Tensor, applies: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and alpha of each prompt, without reading anything back to the host.

    Args:
        logits: [B, V], raw logits of the first generated token, unsteered.
        applies: bool [B]; the other prompts get alpha 1.

    Returns:
        Confidence and alpha, float32 [B], on the device of ``applies``.
    """
    kernels = kernels_for(logits)
    if kernels is None:
        confidence = policy.confidence_of(logits).to(applies.device)
        return confidence, torch.where(applies, policy.select_alpha(config, confidence), 1.0)
    if isinstance(config, ScalingVis):
        threshold, low, high = 0.0, config.alpha, config.alpha
    else:
        threshold, low, high = config.threshold, config.alpha_low, config.alpha_high
    confidence, alpha = kernels.select_alpha(
        logits,
        threshold=threshold,
        alpha_low=low,
        alpha_high=high,
        applies=applies.to(logits.device),
    )
    return confidence.to(applies.device), alpha.to(applies.device)


def rescale_norms(embeddings: Tensor, target: float | None, clip: float | None) -> Tensor:
    """Rescale image tokens [..., D]; see :func:`adaptvis.steering.norms.rescale_norms`."""
    kernels = kernels_for(embeddings)
    if kernels is None or embeddings.shape[-1] > _LARGEST_HIDDEN_SIZE:
        return norms.rescale_norms(embeddings, target, clip)
    rescaled: Tensor = kernels.rescale_norms(embeddings, target=target, clip=clip)
    return rescaled
