"""Inputs of the attention comparisons, what their rows see, and what is right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from adaptvis_kernels.device_check.correctness import relative_error
from adaptvis_kernels.device_check.timing import sets_of
from torch import Tensor

from kernel_bench import baselines
from kernel_bench.shapes import AttentionShape, Model, image_spans

# Text behind the images, whose rows `rows="text_after_image"` steers.
TAIL_ROWS = 48


@dataclass(frozen=True)
class Inputs:
    """One set. query [B, H, R, D]; key, value [B, G, N, D]; alpha and ones [B, R]."""

    query: Tensor
    key: Tensor
    value: Tensor
    alpha: Tensor
    tail_alpha: Tensor
    ones: Tensor
    columns: Tensor
    spans: Tensor


def make_inputs(
    model: Model, shape: AttentionShape, device: torch.device, seed: int = 0
) -> list[Inputs]:
    """As many sets of random inputs as it takes to get past the caches."""
    generator = torch.Generator(device=device).manual_seed(seed)
    random = partial(torch.randn, generator=generator, device=device)
    batch, rows, columns = shape.batch, shape.rows, shape.columns
    images = image_spans(model, columns)
    spans = torch.tensor(images, dtype=torch.int32, device=device).expand(batch, -1, -1)
    column = torch.arange(columns, device=device)
    inside = ((column >= spans[..., :1]) & (column < spans[..., 1:])).any(1)
    cache = (batch, model.groups, columns, model.head_size)
    # The interpreter multiplies bfloat16 inexactly.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    sets = []
    for _ in range(sets_of(shape.cache_bytes(model), device)):
        # Half of the rows raised, half lowered, no two alike.
        alpha = 1 + 0.5 * torch.tanh(random(batch, rows))
        ones = torch.ones_like(alpha)
        tail = ones.clone()
        tail[:, -TAIL_ROWS:] = alpha[:, -TAIL_ROWS:]
        query = random(batch, rows, model.heads, model.head_size, dtype=dtype)
        key, value = (random(cache, dtype=dtype) for _ in range(2))
        sets.append(
            Inputs(query.transpose(1, 2), key, value, alpha, tail, ones, inside, spans.contiguous())
        )
    return sets


class Checker:
    """Errors against the definition in float64, which is computed once per set of alphas."""

    def __init__(self, inputs: Inputs, window: int | None) -> None:
        self.inputs, self.window = inputs, window
        self._expected: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, alphas: str, output: Tensor) -> float:
        if alphas not in self._expected:
            self._expected[alphas] = baselines.expected_attention(
                self.inputs.query,
                self.inputs.key,
                self.inputs.value,
                image_columns=self.inputs.columns,
                row_alpha=getattr(self.inputs, alphas),
                window=self.window,
            )
        rows, expected = self._expected[alphas]
        if not bool(torch.isfinite(output).all()):
            return float("inf")
        return relative_error(output[:, :, rows], expected)


def mask_or_window(shape: AttentionShape, device: torch.device, *, masked: bool) -> dict[str, Any]:
    """What a row sees, as an explicit mask [B, R, N] or as the kernel's own rules."""
    if not masked:
        return {"window": shape.window}
    seen = baselines.causal_mask(shape.rows, shape.columns, shape.window, device)
    return {"visible": seen.reshape(1, shape.rows, -1).expand(shape.batch, -1, -1)}
