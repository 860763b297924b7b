"""Attention kernels read nothing back: they can be captured, and a replay sees new inputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import adaptvis_kernels as kernels
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="CUDA graphs need a GPU",
)
Call = Callable[[], Any]
BATCH, HEADS, GROUPS, COLUMNS, SIZE, BLOCK = 2, 8, 2, 640, 64, 16


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float16)


def ints(values: Any) -> Tensor:
    return torch.tensor(values, device="cuda", dtype=torch.int32)


def tokens(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        rand(BATCH, HEADS, rows, SIZE),
        rand(BATCH, GROUPS, COLUMNS, SIZE),
        rand(BATCH, GROUPS, COLUMNS, SIZE),
    )


def decode() -> tuple[Call, list[Tensor]]:
    inputs = tokens(3)
    alpha = torch.rand(BATCH, 3, device="cuda")
    image = torch.rand(BATCH, COLUMNS, device="cuda") < 0.5
    call = partial(kernels.steered_decode, *inputs, row_alpha=alpha, image_columns=image)
    return call, [inputs[0], alpha]


def paged_decode() -> tuple[Call, list[Tensor]]:
    blocks = BATCH * COLUMNS // BLOCK
    query, alpha = rand(BATCH, HEADS, SIZE), torch.rand(BATCH, device="cuda")
    lengths = ints([COLUMNS, 300])
    call = partial(
        kernels.steered_paged_decode,
        query,
        rand(blocks, BLOCK, GROUPS, SIZE),
        rand(blocks, BLOCK, GROUPS, SIZE),
        block_table=torch.randperm(blocks, device="cuda").to(torch.int32).view(BATCH, -1),
        sequence_lengths=lengths,
        row_alpha=alpha,
        image_spans=ints([[[5, 100]]] * BATCH),
    )
    return call, [query, alpha, lengths]


def prefill() -> tuple[Call, list[Tensor]]:
    inputs = tokens(COLUMNS)
    alpha, spans = torch.rand(BATCH, COLUMNS, device="cuda"), ints([[[5, 100]]] * BATCH)
    call = partial(kernels.steered_prefill, *inputs, row_alpha=alpha, image_spans=spans)
    return call, [inputs[0], alpha]


def image_attention() -> tuple[Call, list[Tensor]]:
    query, key, _ = tokens(3)
    positions = ints([list(range(5, 100))] * BATCH)
    return partial(kernels.image_attention, query, key, image_positions=positions), [query]


@pytest.mark.parametrize("build", [decode, paged_decode, prefill, image_attention])
def test_a_captured_call_computes_anew_from_the_inputs_at_its_replay(
    build: Callable[[], tuple[Call, list[Tensor]]],
) -> None:
    torch.manual_seed(0)
    call, inputs = build()
    # Compiles, which a capture must not.
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for tensor in inputs:
        # Lengths become shorter; the others change sign or size.
        tensor.copy_(tensor // 2 if tensor.dtype == torch.int32 else -0.5 * tensor)
    graph.replay()
    torch.cuda.synchronize()
    expected = call()
    if isinstance(expected, Tensor):
        captured, expected = (captured,), (expected,)
    for got, want in zip(captured, expected, strict=True):
        assert torch.isfinite(want).all()
        assert torch.equal(got, want)
