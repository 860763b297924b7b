"""The backend switch: the one place that decides between Triton kernels and torch.

Tensors in float32, float16 or bfloat16 go to ``adaptvis_kernels`` on NVIDIA GPUs from compute
capability 8.0 and on AMD's gfx90a and gfx942; on any other device, and where Triton cannot be
imported or cannot launch (one :class:`AdaptVisWarning` says so), torch computes the same. So does
whatever the kernels do not do: gradients through attention, heads larger than 256, masks that are
not boolean or differ between heads, attention weights, embeddings of more than 16384 dimensions.

The environment variable ``ADAPTVIS_BACKEND`` decides instead: "torch" switches the kernels off,
"triton" uses them whatever the device, and what goes wrong there is raised.

Both meet the same definition (:func:`adaptvis.steering.attention.reference_attention`) and differ
by rounding, but for rows whose mask is False throughout, which only padding has: torch gives them
the mean of the values, the kernels 0.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import AdaptVisWarning, ConfigError
from adaptvis.steering import attention, norms, policy

__all__ = [
    "backend_on",
    "decide",
    "decide_each",
    "kernels_for",
    "normalize_projection",
    "override_backend",
    "rescale_norms",
    "steered_attention",
]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256
_LARGEST_HIDDEN_SIZE = 16384
_LARGEST_NORMALIZED = 8192
# The decode kernel splits long contexts over the device; from here on the rows fill it anyway.
_MOST_DECODE_ROWS = 128

_VARIABLE = "ADAPTVIS_BACKEND"

Backend = Literal["triton", "torch"]
_BACKENDS: tuple[Backend, ...] = ("triton", "torch")
_override: ContextVar[Backend | None] = ContextVar("adaptvis_backend", default=None)
# By device, found out once; and what a trial launch said where it failed.
_served: dict[torch.device, bool] = {}
_failures: dict[torch.device, str] = {}
_serving = threading.Lock()


@contextmanager
def override_backend(backend: Backend) -> Iterator[None]:
    """Use this backend whatever the device, in this thread; for tests, in Triton's interpreter."""
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


def _wanted_backend() -> Backend | None:
    override = _override.get()
    if override is not None:
        return override
    value = os.environ.get(_VARIABLE, "")
    if value == "":
        return None
    for backend in _BACKENDS:
        if value == backend:
            return backend
    raise ConfigError(f"{_VARIABLE} must be 'torch' or 'triton' or unset, got {value!r}")


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """``adaptvis_kernels`` where it serves tensors such as this one, else None.

    Raises:
        ConfigError: ``ADAPTVIS_BACKEND`` is neither "torch" nor "triton", or Triton was asked for
            and cannot be imported.
    """
    wanted = _wanted_backend()
    if wanted == "torch" or tensor.dtype not in _DTYPES:
        return None
    if wanted is None and tensor.device.type != "cuda":
        return None
    kernels = _load_kernels()
    if wanted == "triton":
        if kernels is None:
            raise ConfigError(
                "The backend 'triton' expects the package triton, which cannot be imported"
            )
        return kernels
    return kernels if kernels is not None and _is_served(tensor.device) else None


def _is_served(device: torch.device) -> bool:
    """Whether kernels run on this GPU; finds out at the first call, and warns where they do not."""
    if device not in _served:
        with _serving:
            if device not in _served:
                _served[device] = _try(device)
    return _served[device]


def _try(device: torch.device) -> bool:
    support = importlib.import_module("adaptvis_kernels.support")
    if not support.supports(device):
        return False
    try:
        support.try_launch(device)
    # The compiler, the driver and the C toolchain raise whatever they like.
    except Exception as error:
        # Known before the warning, which a filter may turn into an exception.
        _served[device] = False
        _failures[device] = _failure(device, error)
        warnings.warn(
            f"{_failures[device]}, so torch does the "
            f"steering there; {_VARIABLE}=torch makes that the choice and ends this warning",
            AdaptVisWarning,
            stacklevel=2,
        )
        return False
    return True


def _failure(device: torch.device, error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "no message")
    return f"Triton cannot launch on {device} ({type(error).__name__}: {text})"


def backend_on(device: torch.device) -> tuple[Backend, str]:
    """What steers tensors of a usual dtype on this device, and why; tries a launch where it must.

    Raises:
        ConfigError: see :func:`kernels_for`, or Triton was asked for and cannot launch there.
    """
    wanted = _wanted_backend()
    if wanted == "torch":
        return "torch", f"{_VARIABLE}=torch"
    if wanted is None and device.type != "cuda":
        return "torch", "the Triton kernels serve CUDA and ROCm devices"
    kernels = _load_kernels()
    if wanted == "triton":
        if kernels is None:
            kernels_for(torch.empty(0, device=device))  # raises
        support = importlib.import_module("adaptvis_kernels.support")
        try:
            support.try_launch(device)
        except Exception as error:
            raise ConfigError(
                f"{_VARIABLE}=triton insists on kernels; unset it: {_failure(device, error)}"
            ) from None
        return "triton", f"{_VARIABLE}=triton"
    if kernels is None:
        return "torch", "the package triton cannot be imported"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptVisWarning)
        if _is_served(device):
            return "triton", "a trial launch went well"
    reason = "there are no configurations of the kernels for this architecture"
    return "torch", _failures.get(device, reason)


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
    if kernels is not None and _has_kernel(query, key, value, row_alpha, mask):
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


def _has_kernel(
    query: Tensor, key: Tensor, value: Tensor, row_alpha: Tensor, mask: Tensor | None
) -> bool:
    inputs = (query, key, value, row_alpha)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
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
        return confidence, _alpha(config, logits, confidence, applies)
    if isinstance(config, ScalingVis):
        threshold, low, high = 0.0, config.alpha, config.alpha
    else:
        threshold, low, high = policy.cut_of(config), config.alpha_low, config.alpha_high
    confidence, alpha = kernels.select_alpha(
        logits,
        threshold=threshold,
        alpha_low=low,
        alpha_high=high,
        applies=applies.to(logits.device),
    )
    confidence, alpha = confidence.to(applies.device), alpha.to(applies.device)
    if isinstance(config, AdaptVis) and config.compared == "rounded_logit":
        # The kernel compares confidences; of this rule it gives the confidence alone.
        alpha = _alpha(config, logits, confidence, applies)
    return confidence, alpha


def _alpha(
    config: ScalingVis | AdaptVis, logits: Tensor, confidence: Tensor, applies: Tensor
) -> Tensor:
    compared = policy.compared_of(config, logits, confidence)
    return torch.where(applies, policy.select_alpha(config, compared), 1.0)


def decide_each(
    logits: Tensor,
    configs: Sequence[ScalingVis | AdaptVis],
) -> tuple[Tensor, Tensor]:
    """:func:`decide` with a configuration per prompt, all of which apply.

    Args:
        logits: [B, V].

    Returns:
        Confidence and alpha, float32 [B].
    """
    table = torch.tensor([_numbers(config) for config in configs], dtype=torch.float32)
    threshold, low, high, by_logit = table.to(logits.device, non_blocking=True).unbind(1)
    kernels = kernels_for(logits)
    if kernels is None:
        confidence = policy.confidence_of(logits)
        alpha = torch.where(confidence < threshold, low, high)
    else:
        confidence, alpha = kernels.select_alpha(
            logits, threshold=threshold, alpha_low=low, alpha_high=high
        )
    if bool(table[:, 3].any()):
        largest = logits.float().amax(dim=-1)
        alpha = torch.where(by_logit != 0, torch.where(largest < threshold, low, high), alpha)
    return confidence, alpha


def _numbers(config: ScalingVis | AdaptVis) -> tuple[float, float, float, bool]:
    """Threshold, alpha below it, alpha else, and whether it is the largest logit's."""
    if isinstance(config, ScalingVis):
        return 0.0, config.alpha, config.alpha, False
    by_logit = config.compared == "rounded_logit"
    return policy.cut_of(config), config.alpha_low, config.alpha_high, by_logit


def rescale_norms(embeddings: Tensor, target: float | None, clip: float | None) -> Tensor:
    """Rescale image tokens [..., D]; see :func:`adaptvis.steering.norms.rescale_norms`."""
    kernels = kernels_for(embeddings)
    if kernels is None or embeddings.shape[-1] > _LARGEST_HIDDEN_SIZE:
        return norms.rescale_norms(embeddings, target, clip)
    rescaled: Tensor = kernels.rescale_norms(embeddings, target=target, clip=clip)
    return rescaled


def normalize_projection(
    features: Tensor, weight: Tensor, *, max_norm: float, target_mean: float, eps: float
) -> Tensor:
    """The Normalize projector's tail; see :func:`adaptvis.steering.norms.normalize_projection`."""
    constants = {"max_norm": max_norm, "target_mean": target_mean, "eps": eps}
    kernels = kernels_for(features)
    if kernels is None or features.shape[-1] > _LARGEST_NORMALIZED:
        return norms.normalize_projection(features, weight, **constants)
    normalized: Tensor = kernels.normalize_projection(features, weight, **constants)
    return normalized
