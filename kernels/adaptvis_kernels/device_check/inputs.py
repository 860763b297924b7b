"""Random tensors in place of the ``meta`` tensors of a case, each such that its call is valid."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["real_arguments"]

_NORM = 1.22  # What the cases clip at: half of the vectors lie on either side.


def real_arguments(
    call: partial[Any], dtype: torch.dtype, device: torch.device, seed: int
) -> dict[str, Any]:
    """The arguments of ``call`` by name, its shapes and strides filled with random values.

    dtype: of what the case has in 16 bits; float32 stays float32.
    """
    bound = inspect.signature(call.func).bind(*call.args, **call.keywords).arguments
    made = _Filler(dict(bound), dtype, device, seed)
    return {
        name: made.tensor(name, value) if isinstance(value, Tensor) else value
        for name, value in bound.items()
    }


class _Filler:
    def __init__(
        self, arguments: dict[str, Any], dtype: torch.dtype, device: torch.device, seed: int
    ) -> None:
        self.arguments, self.dtype, self.device = arguments, dtype, device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """Values for the argument ``name``, with the strides of ``like``."""
        if like.dtype == torch.bool:
            values = self._bools(name, like.shape)
        elif like.is_floating_point():
            values = self._floats(name, like.shape)
        else:
            values = self._integers(name, like.shape)
        wide = like.dtype if like.dtype not in (torch.float16, torch.bfloat16) else self.dtype
        result = torch.empty_strided(like.shape, like.stride(), dtype=wide, device=self.device)
        return result.copy_(values)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def _below(self, limit: int, *shape: int) -> Tensor:
        """Integers from 0 to ``limit`` - 1."""
        return torch.randint(0, max(limit, 1), shape, generator=self.generator, device=self.device)

    def _floats(self, name: str, shape: torch.Size) -> Tensor:
        if name == "row_alpha":
            return 1 + 0.5 * torch.tanh(self._normal(*shape))
        if name in ("threshold", "alpha_low", "alpha_high"):
            return self._uniform(*shape)
        values = self._normal(*shape)
        if name == "logits":
            # One token of each row stands out: confidences between 0 and 1.
            rows, vocabulary = shape
            height = math.log(vocabulary) + 0.5
            spread = torch.linspace(-4, 4, rows, device=self.device) if rows > 1 else 0.0
            values[torch.arange(rows), self._below(vocabulary, rows)] = height + spread
        elif name == "embeddings":
            size = _NORM * shape[-1] ** -0.5 * torch.exp(0.5 * self._normal(shape[0], 1))
            values *= size
            values[0] = 0
        elif name == "weight":
            values = _NORM * shape[-1] ** -0.5 * (1 + 0.3 * values) / math.sqrt(1.09)
        return values

    def _bools(self, name: str, shape: torch.Size) -> Tensor:
        values = self._uniform(*shape) < (0.7 if name == "visible" else 0.5)
        if name == "heads":
            values[0] = True
        if name == "visible":
            # One row sees nothing at all.
            values.reshape(-1, shape[-1])[0] = False
        return values

    def _integers(self, name: str, shape: torch.Size) -> Tensor:
        if name == "block_table":
            return self._below(len(self.arguments["key_cache"]), *shape)
        if name == "sequence_lengths":
            lengths = self._rows_of_requests() + self._below(
                self._columns() - self._most_rows(), *shape
            )
            lengths[-1] = self._columns()
            return lengths
        if name == "row_starts":
            return _starts(self._rows_of_requests())
        if name in ("query_starts", "key_starts"):
            return _starts(self._tokens_of_requests(shape[0] - 1))
        if name in ("image_spans", "bidirectional_spans"):
            return self._spans(shape)
        if name == "first_columns":
            return self._below(self._columns() // 3, *shape)
        if name == "image_positions":
            order = self._uniform(shape[0], self._columns()).argsort(1)[:, : shape[1]]
            if shape[1] > 4:
                order[:, -2:] = -1
            return order
        if name == "row_positions":
            return self._below(self._columns(), *shape)
        raise LookupError(f"no values are known for the argument {name}")

    def _columns(self) -> int:
        """Tokens of a request at most."""
        if "key_cache" in self.arguments:
            blocks, block_size = self.arguments["block_table"], self.arguments["key_cache"]
            return int(blocks.shape[1] * block_size.shape[1])
        if "query_starts" in self.arguments:
            return int(self.arguments["max_rows"])
        return int(self.arguments["key"].shape[2])

    def _most_rows(self) -> int:
        batch = len(self.arguments["sequence_lengths"])
        return int(len(self.arguments["query"]) // batch)

    def _rows_of_requests(self) -> Tensor:
        """Of a paged decode: all as many, or every other one a third."""
        batch = len(self.arguments["sequence_lengths"])
        rows = torch.full((batch,), self._most_rows(), device=self.device)
        if self.arguments.get("row_starts") is not None:
            rows[1::2] = max(1, self._most_rows() // 3)
        return rows

    def _tokens_of_requests(self, batch: int) -> Tensor:
        """Of a packed prefill: unequal, the first of one token; together what there is at most."""
        most, total = int(self.arguments["max_rows"]), len(self.arguments["query"])
        share = min(most, 2 * (total - 1) // max(batch, 2))
        counts = [1 if i == 0 else share if i % 2 else max(1, share // 3) for i in range(batch)]
        return torch.tensor(counts, device=self.device)

    def _spans(self, shape: torch.Size) -> Tensor:
        """Half-open, one within each share of the columns; the last is empty."""
        batch, count = shape[0], shape[1]
        share = max(self._columns() // count, 2)
        starts = self._below(share // 2, batch, count)
        starts += share * torch.arange(count, device=self.device)
        spans = torch.stack([starts, starts + 1 + self._below(share // 2, batch, count)], dim=2)
        if batch * count > 1:
            spans[-1, -1] = 5
        return spans


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
