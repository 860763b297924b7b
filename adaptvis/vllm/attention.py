"""Attention of the second pass, in place of a backend's for that pass only.

A backend's ``impl.forward`` is shadowed by an attribute of the same name that looks at the
metadata: the backend's own goes on to the original, :class:`SteeredMetadata` comes here. Nothing is
replaced, so graphs and compiled code of the main pass stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptvis.steering.paged import PagedRows, steered_paged_attention
from adaptvis.vllm.cache_layout import blocks_of, check_layout, layout_name

__all__ = ["SteeredMetadata", "divert"]


@dataclass(frozen=True)
class SteeredMetadata:
    """What one key-value cache group needs to attend in the second pass.

    parts: the rows [start, stop) of requests that steer the same heads, and their paged rows.
    row_alpha: float32 [T] by decoder layer; the key None serves layers that are not listed.
    """

    parts: Sequence[tuple[slice, PagedRows]]
    row_alpha: Mapping[int | None, Tensor]

    def alpha_of(self, layer: int) -> Tensor:
        found = self.row_alpha.get(layer)
        return self.row_alpha[None] if found is None else found


def divert(layer: Any, layer_index: int) -> Callable[[], None]:
    """Send the second pass of one attention layer here; returns a check of its cache layout.

    Raises:
        UnsupportedError: the backend's cache cannot be read.
    """
    impl = layer.impl
    layout = layout_name(layer)
    original = impl.forward
    # Windows count a row's own token; vLLM keeps None, -1 or (left, right) in its backends.
    window = layer.sliding_window
    softcap = getattr(impl, "logits_soft_cap", None) or None

    def forward(
        attention_layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if type(attn_metadata) is not SteeredMetadata:
            result: Tensor = original(
                attention_layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
            )
            return result
        alpha = attn_metadata.alpha_of(layer_index)
        for rows, paged in attn_metadata.parts:
            keys, values, table = blocks_of(kv_cache, paged.block_table, layout)
            if table is not paged.block_table:
                paged = PagedRows(**{**vars(paged), "block_table": table})
            attended = steered_paged_attention(
                query[rows],
                keys,
                values,
                paged,
                alpha[rows],
                scaling=impl.scale,
                window=window,
                softcap=softcap,
            )
            output[rows].copy_(attended.view_as(output[rows]))
        return output

    impl.forward = forward

    def check() -> None:
        if isinstance(layer.kv_cache, torch.Tensor) and layer.kv_cache.numel():
            check_layout(layer, layer.kv_cache, layout, impl.do_kv_cache_update)

    return check
