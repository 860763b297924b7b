"""Launches of the four kernels, forward and backward, on arguments that are already checked."""

from __future__ import annotations

import torch
from torch import Tensor

from ...configs import configuration
from ...launching import architecture_of, launch, multiprocessors_of
from .kernel import (
    normalize_backward_kernel,
    normalize_forward_kernel,
    rescale_backward_kernel,
    rescale_forward_kernel,
)

__all__ = ["normalize_backward", "normalize_forward", "rescale_backward", "rescale_forward"]

_SMALLEST_BLOCK = 16
_SMALLEST_CONFIGURED = 128
_BLOCKS_PER_PROGRAM = 4


def rescale_forward(embeddings: Tensor, limit: float, always: bool) -> Tensor:
    """Vectors [..., D] at norm ``limit``, always or only where it is exceeded."""
    output = _empty_like(embeddings)
    if output.numel() == 0:
        return output
    rows = _as_rows(embeddings)
    config = _configuration("forward", rows)
    launch(
        rescale_forward_kernel,
        (_blocks(rows, config),),
        device=rows.device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        embeddings=rows,
        output=output,
        stride_row=rows.stride(0),
        num_rows=rows.shape[0],
        limit=limit,
        ALWAYS=always,
        HIDDEN_SIZE=rows.shape[1],
        BLOCK_ROWS=config["BLOCK_ROWS"],
        BLOCK_D=_block_size(rows),
    )
    return output


def rescale_backward(
    embeddings: Tensor, output_gradient: Tensor, limit: float, always: bool
) -> Tensor:
    """The gradient [..., D] of :func:`rescale_forward` in the embeddings."""
    gradient = _empty_like(embeddings)
    if gradient.numel() == 0:
        return gradient
    rows, gradient_rows = _as_rows(embeddings), _as_rows(output_gradient)
    config = _configuration("rescale_backward", rows)
    launch(
        rescale_backward_kernel,
        (_blocks(rows, config),),
        device=rows.device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        embeddings=rows,
        output_gradient=gradient_rows,
        gradient=gradient,
        stride_row=rows.stride(0),
        stride_gradient_row=gradient_rows.stride(0),
        num_rows=rows.shape[0],
        limit=limit,
        ALWAYS=always,
        HIDDEN_SIZE=rows.shape[1],
        BLOCK_ROWS=config["BLOCK_ROWS"],
        BLOCK_D=_block_size(rows),
    )
    return gradient


def normalize_forward(
    features: Tensor, weight: Tensor, max_norm: float, target_mean: float, eps: float
) -> Tensor:
    """RMSNorm of vectors [..., D], clipped, times ``target_mean``."""
    output = _empty_like(features)
    if output.numel() == 0:
        return output
    rows = _as_rows(features)
    config = _configuration("forward", rows)
    launch(
        normalize_forward_kernel,
        (_blocks(rows, config),),
        device=rows.device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        features=rows,
        weight=weight.contiguous(),
        output=output,
        stride_row=rows.stride(0),
        num_rows=rows.shape[0],
        max_norm=max_norm,
        target_mean=target_mean,
        eps=eps,
        HIDDEN_SIZE=rows.shape[1],
        BLOCK_ROWS=config["BLOCK_ROWS"],
        BLOCK_D=_block_size(rows),
    )
    return output


def normalize_backward(
    features: Tensor,
    weight: Tensor,
    output_gradient: Tensor,
    max_norm: float,
    target_mean: float,
    eps: float,
    *,
    need_features: bool = True,
    need_weight: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of :func:`normalize_forward` in features [..., D] and weight [D]."""
    gradient = _empty_like(features) if need_features else None
    if features.numel() == 0:
        return gradient, torch.zeros_like(weight) if need_weight else None
    rows, gradient_rows = _as_rows(features), _as_rows(output_gradient)
    config = _configuration("normalize_backward", rows)
    blocks = _blocks(rows, config)
    programs = _stay(blocks, config, multiprocessors_of(rows.device))
    partial_sums = None
    if need_weight:
        partial_sums = torch.empty(
            (programs, rows.shape[1]), dtype=torch.float32, device=rows.device
        )
    launch(
        normalize_backward_kernel,
        (programs,),
        device=rows.device,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
        features=rows,
        weight=weight.contiguous(),
        output_gradient=gradient_rows,
        gradient=gradient,
        weight_gradients=partial_sums,
        stride_row=rows.stride(0),
        stride_gradient_row=gradient_rows.stride(0),
        num_rows=rows.shape[0],
        num_blocks=blocks,
        max_norm=max_norm,
        target_mean=target_mean,
        eps=eps,
        COMPUTE_DX=need_features,
        COMPUTE_DWEIGHT=need_weight,
        HIDDEN_SIZE=rows.shape[1],
        BLOCK_ROWS=config["BLOCK_ROWS"],
        BLOCK_D=_block_size(rows),
        NUM_STAGES=config["num_stages"],
    )
    if partial_sums is None:
        return gradient, None
    return gradient, partial_sums.sum(dim=0).to(weight.dtype)


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _as_rows(tensor: Tensor) -> Tensor:
    """[..., D] as [N, D] with a last stride of 1: a view where there is one."""
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _block_size(rows: Tensor) -> int:
    return max(_SMALLEST_BLOCK, 1 << (rows.shape[1] - 1).bit_length())


def _configuration(name: str, rows: Tensor) -> dict[str, int]:
    key = max(_SMALLEST_CONFIGURED, _block_size(rows))
    return configuration("rescale_norms", f"{name}/{key}", architecture_of(rows.device))


def _blocks(rows: Tensor, config: dict[str, int]) -> int:
    return -(-rows.shape[0] // config["BLOCK_ROWS"])


def _stay(blocks: int, config: dict[str, int], multiprocessors: int) -> int:
    """How many programs loop over ``blocks``: one per multiprocessor before several blocks each."""
    most = config["PROGRAMS_PER_MULTIPROCESSOR"] * multiprocessors
    return min(blocks, max(multiprocessors, min(most, -(-blocks // _BLOCKS_PER_PROGRAM))))
