"""Checks, splits of the vocabulary, and launches of the confidence kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...checks import (
    FLOAT_TYPES,
    check_devices,
    check_dtype,
    check_shape,
    in_float32,
    require,
)
from ...configs import configuration
from ...launching import architecture_of, launch, multiprocessors_of
from .kernel import combine_splits_kernel, confidence_kernel

__all__ = ["select_alpha"]

_BYTES_PER_LOAD = 16
_LARGEST_VOCABULARY = 2**30


def select_alpha(
    logits: Tensor,
    *,
    threshold: float | Tensor,
    alpha_low: float | Tensor,
    alpha_high: float | Tensor,
    applies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Confidence and coefficient of each row, on device, without synchronising with the host.

    ``confidence = 1 / sum exp(logits - max logits)`` is the largest softmax probability of the raw
    logits; ``alpha = alpha_low if confidence < threshold else alpha_high``, compared in float32,
    strictly and without rounding: a confidence equal to the threshold takes ``alpha_high``. A
    confidence of NaN (a logit of NaN or +inf, or all of them -inf) takes ``alpha_high``.

    Args:
        logits: [R, V] in float32, float16 or bfloat16, any strides; V at least 1.
        threshold, alpha_low, alpha_high: numbers, or float32 [R], one per request. Equal alphas
            give ScalingVis.
        applies: bool [R]; alpha is 1 where it is False. The confidence is of every row.

    Returns:
        Confidence and alpha, float32 [R] each; neither is part of a gradient.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    check_shape("logits", logits, ("R", "V"))
    check_dtype("logits", logits, FLOAT_TYPES)
    rows, vocabulary_size = logits.shape
    require(
        0 < vocabulary_size <= _LARGEST_VOCABULARY,
        f"logits must have 1 to {_LARGEST_VOCABULARY} columns, got {vocabulary_size}",
    )
    policy = {"threshold": threshold, "alpha_low": alpha_low, "alpha_high": alpha_high}
    values = {name: _number_or_per_row(name, value, rows) for name, value in policy.items()}
    if applies is not None:
        check_shape("applies", applies, (rows,))
        check_dtype("applies", applies, torch.bool)
    device = check_devices(
        logits=logits,
        applies=applies,
        **{name: value for name, value in values.items() if isinstance(value, Tensor)},
    )

    config = configuration("select_alpha", str(8 * logits.element_size()), architecture_of(device))
    splits, blocks_per_split = _splits(rows, vocabulary_size, config, multiprocessors_of(device))
    confidence = torch.empty(rows, dtype=torch.float32, device=device)
    alpha = torch.empty_like(confidence)
    partial_largest = partial_total = None
    if splits > 1:
        partial_largest, partial_total = torch.empty(
            (2, rows, splits), dtype=torch.float32, device=device
        )
    shared: dict[str, Any] = {
        "partial_largest": partial_largest,
        "partial_total": partial_total,
        "confidence": confidence,
        "alpha": alpha,
        **values,
        "applies": None if applies is None else applies.contiguous(),
        "THRESHOLD_PER_ROW": isinstance(threshold, Tensor),
        "LOW_PER_ROW": isinstance(alpha_low, Tensor),
        "HIGH_PER_ROW": isinstance(alpha_high, Tensor),
        "HAS_APPLIES": applies is not None,
    }
    launch(
        confidence_kernel,
        (rows, splits),
        device=device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        logits=logits,
        stride_row=logits.stride(0),
        stride_vocabulary=logits.stride(1),
        vocabulary_size=vocabulary_size,
        blocks_per_split=blocks_per_split,
        IS_SPLIT=splits > 1,
        GROUP_SIZE=_BYTES_PER_LOAD // logits.element_size(),
        BLOCK_V=config["BLOCK_V"],
        NUM_STAGES=config["num_stages"],
        **shared,
    )
    if splits > 1:
        launch(
            combine_splits_kernel,
            (rows,),
            device=device,
            num_warps=1,
            num_stages=1,
            splits=splits,
            MAX_SPLITS=config["MAX_SPLITS"],
            **shared,
        )
    return confidence, alpha


def _number_or_per_row(name: str, value: float | Tensor, rows: int) -> float | Tensor:
    if isinstance(value, Tensor):
        check_shape(name, value, (rows,))
        check_dtype(name, value, torch.float32)
        return value.detach().contiguous()
    require(
        math.isfinite(in_float32(value)),
        f"{name} must be a number that is finite in float32 or a float32 tensor [{rows}], "
        f"got {value!r}",
    )
    return float(value)


def _splits(
    rows: int, vocabulary_size: int, config: dict[str, int], multiprocessors: int
) -> tuple[int, int]:
    """How many programs share a row, and how many blocks of logits each of them reads."""
    blocks = -(-vocabulary_size // config["BLOCK_V"])
    wanted = config["PROGRAMS_PER_MULTIPROCESSOR"] * multiprocessors // max(rows, 1)
    splits = max(1, min(wanted, blocks, config["MAX_SPLITS"]))
    blocks_per_split = -(-blocks // splits)
    # Rounding up may leave the last splits without a block.
    return -(-blocks // blocks_per_split), blocks_per_split
