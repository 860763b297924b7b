"""A few times of the kernels, beside what the device can do and what PyTorch takes.

The full comparison, with FlexAttention, cuDNN and many shapes, is benchmarks/kernel_speed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..ops.rescale_norms import rescale_norms
from ..ops.rescale_norms.cost import cost as norms_cost
from ..ops.select_alpha import select_alpha
from ..ops.steered_paged_decode import steered_decode
from ..ops.steered_paged_decode.cost import cost as decode_cost
from ..ops.steered_prefill import steered_prefill
from ..ops.steered_prefill.cost import cost as prefill_cost
from .timing import Call, Ceilings, measure, sets_of

__all__ = ["Speed", "speeds"]

_HEADS, _SIZE = 32, 128  # LLaVA-1.5-7B's.


@dataclass(frozen=True)
class Speed:
    """microseconds: of one call. ratio: over what ``against`` says. share: of the ceiling."""

    what: str
    microseconds: float
    share: float
    against: str
    ratio: float


def speeds(device: torch.device, ceilings: Ceilings, *, small: bool = False) -> Iterator[Speed]:
    """Decode and prefill at LLaVA-1.5-7B's heads, norms and confidence."""
    columns = 48 if small else 8192
    random = partial(torch.randn, device=device, dtype=torch.float16 if small else torch.bfloat16)
    heads = 2 if small else _HEADS

    def inputs(rows: int, columns: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        count = sets_of(4 * heads * columns * _SIZE, device)
        shapes = [(1, heads, rows, _SIZE), *[(1, heads, columns, _SIZE)] * 2]
        return [tuple(random(shape) for shape in shapes) for _ in range(count)]  # type: ignore[misc]

    def steered(
        function: Callable[..., Any], sets: list[Any], rows: int, columns: int, alpha: float
    ) -> list[Call]:
        options = {
            "row_alpha": torch.full((1, rows), alpha, device=device),
            "image_spans": torch.tensor([[[5, columns - 5]]], device=device, dtype=torch.int32),
        }
        return [partial(function, *one, **options) for one in sets]

    def one(
        what: str, cost: tuple[int, int], ours: list[Call], against: str, theirs: list[Call]
    ) -> Speed:
        time, other = (measure(calls, device).median for calls in (ours, theirs))
        floor, _ = ceilings.floor(*cost)
        return Speed(what, time, 1e6 * floor / time, against, time / other)

    sets = inputs(1, columns)
    cost = decode_cost(
        batch=1,
        rows=1,
        heads=heads,
        groups=heads,
        head_size=_SIZE,
        columns=columns,
        element_size=2,
    )
    calls = [steered(steered_decode, sets, 1, columns, alpha) for alpha in (1.5, 1.0)]
    yield one(f"steered decode, context {columns}", cost, calls[0], "alpha 1", calls[1])

    columns = 24 if small else 2048
    sets = inputs(columns, columns)
    cost = prefill_cost(1, heads, heads, columns, columns, _SIZE, 2)
    theirs: list[Call] = [
        partial(scaled_dot_product_attention, *tensors, is_causal=True) for tensors in sets
    ]
    calls = [steered(steered_prefill, sets, columns, columns, 1.5)]
    yield one(f"steered prefill, {columns} tokens", cost, calls[0], "SDPA, unsteered", theirs)

    rows, hidden = (4, 96) if small else (32 * 576, 4096)
    vectors = [random(rows, hidden) for _ in range(sets_of(4 * rows * hidden, device))]
    ours: list[Call] = [partial(rescale_norms, one, target=0.83, clip=None) for one in vectors]
    theirs = [partial(_rescaled, one) for one in vectors]
    what = f"norm rescale, {rows} x {hidden}"
    yield one(what, norms_cost(rows, hidden), ours, "PyTorch", theirs)

    rows, vocabulary = (2, 300) if small else (16, 32064)
    logits = random(rows, vocabulary)
    policy: dict[str, Any] = {"threshold": 0.4, "alpha_low": 0.5, "alpha_high": 1.5}
    ours = [partial(select_alpha, logits, **policy)]
    theirs = [lambda: torch.softmax(logits, -1, dtype=torch.float32).amax(-1)]
    moved = logits.nbytes, 4 * logits.numel()
    yield one(f"confidence and alpha, {rows} x {vocabulary}", moved, ours, "PyTorch", theirs)


def _rescaled(vectors: Tensor) -> Tensor:
    wide = vectors.float()
    return (wide * (0.83 / wide.norm(dim=-1, keepdim=True))).to(vectors.dtype)
