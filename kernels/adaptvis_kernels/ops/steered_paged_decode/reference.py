"""The definition: one request and one row at a time, in float32 (float64 for float64 inputs)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...columns import columns_of_spans

__all__ = ["steered_paged_decode_reference"]


def _first(mask: Tensor, length: int) -> Tensor:
    """The first ``length`` of a mask, False behind its end; a copy."""
    found = torch.zeros(length, dtype=torch.bool)
    found[: len(mask)] = mask[:length]
    return found


def steered_paged_decode_reference(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    block_table: Tensor,
    sequence_lengths: Tensor,
    row_alpha: Tensor,
    row_starts: Tensor | None = None,
    image_columns: Tensor | None = None,
    image_spans: Tensor | None = None,
    heads: Tensor | None = None,
    first_columns: Tensor | None = None,
    visible: Tensor | None = None,
    window: int | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and log-sum-exp [T, H]; arguments as in the kernel's launcher."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    total_rows, num_heads, head_size = query.shape
    batch, group = len(sequence_lengths), num_heads // key_cache.shape[2]
    scaling = head_size**-0.5 if scaling is None else scaling
    output = torch.zeros(total_rows, num_heads, head_size, dtype=dtype)
    log_sum_exp = torch.full((total_rows, num_heads), float("-inf"), dtype=dtype)
    starts = (
        row_starts.tolist()
        if row_starts is not None
        else [request * (total_rows // batch) for request in range(batch + 1)]
    )
    for request in range(batch):
        length = int(sequence_lengths[request])
        blocks = block_table[request].long()
        keys = key_cache[blocks].flatten(0, 1)[:length].to(dtype)  # [N, G, D]
        values = value_cache[blocks].flatten(0, 1)[:length].to(dtype)
        column = torch.arange(length)
        is_image = torch.zeros(length, dtype=torch.bool)
        if image_columns is not None:
            is_image = _first(image_columns[request], length)
        if image_spans is not None:
            is_image = columns_of_spans(image_spans[request : request + 1], length)[0]
        rows = starts[request + 1] - starts[request]
        for row in range(rows):
            token = starts[request] + row
            position = length - rows + row
            seen = column <= position
            if window is not None:
                seen &= position - column < window
            if visible is not None:
                seen = _first(visible[token], length)
            if first_columns is not None:
                seen &= column >= first_columns[request]
            if not seen.any():
                continue
            for head in range(num_heads):
                # Only what is seen is read: anything else may be NaN.
                logits = keys[seen, head // group] @ query[token, head].to(dtype) * scaling
                if softcap is not None:
                    logits = softcap * torch.tanh(logits / softcap)
                if heads is None or heads[head]:
                    alpha = row_alpha[token].to(dtype)
                    logits = torch.where(is_image[seen], logits * alpha, logits)
                log_sum_exp[token, head] = torch.logsumexp(logits, dim=0)
                output[token, head] = torch.softmax(logits, dim=0) @ values[seen, head // group]
    return output, log_sum_exp
