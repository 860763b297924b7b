"""The attention function of the steered pass, registered with transformers as ``adaptvis``.

Only the steered pass runs under this name; every other pass keeps the model's own attention, so
that it is bit-identical to the untouched model. Rows before the first steered one go through
scaled dot-product attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptvis.errors import UnsupportedError
from adaptvis.hf.observation import LayerAttention, has_softcap, observed_attention, show
from adaptvis.steering import attention as torch_attention
from adaptvis.steering.backend import steered_attention

__all__ = [
    "IMPLEMENTATION",
    "SteeredPass",
    "attention_configs",
    "dense_mask",
    "observed_last_row",
    "steered_pass",
]

IMPLEMENTATION = "adaptvis"


@dataclass(frozen=True)
class SteeredPass:
    """What the attention of one steered forward pass needs to know.

    columns: bool [B, N], the steered image tokens among all N tokens seen so far.
    row_alpha: float32 [B, R], the coefficient of each query row of this pass.
    first_row: rows before it are not steered in any prompt.
    layers: steered decoder layers; None is all. heads: steered query heads; None is all.
    weights: attention weights of all rows are wanted, from every layer.
    """

    columns: Tensor
    row_alpha: Tensor
    first_row: int
    layers: frozenset[int] | None = None
    heads: Sequence[int] | None = None
    weights: bool = False

    def __contains__(self, layer: int) -> bool:
        return self.layers is None or layer in self.layers

    def head_mask(self, num_heads: int, device: torch.device) -> Tensor | None:
        """Bool [H], or None for all heads."""
        if self.heads is None:
            return None
        mask = torch.zeros(num_heads, dtype=torch.bool, device=device)
        mask[list(self.heads)] = True
        return mask


@dataclass(frozen=True)
class _Running:
    """A steered pass under way.

    base: the attention implementation of the model's other passes. reached: layers that asked for
    attention so far.
    """

    steering: SteeredPass
    base: str | None
    reached: set[int] = field(default_factory=set)

    def check_reached(self, decoder_type: str) -> None:
        if not self.reached:
            raise UnsupportedError(
                f"This {decoder_type!r} decoder computes attention on its own, so nothing was "
                "steered; use a decoder whose layers go through transformers' AttentionInterface"
            )
        missing = sorted((self.steering.layers or frozenset()) - self.reached)
        if missing:
            raise UnsupportedError(
                f"Layers {', '.join(map(str, missing))} of this {decoder_type!r} decoder have no "
                "softmax attention to steer; leave layers out or name some of "
                f"{', '.join(map(str, sorted(self.reached)))}"
            )


_active: ContextVar[_Running | None] = ContextVar("adaptvis_steered_pass", default=None)


@contextmanager
def observed_last_row(observer: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``observer(layer, weights)`` for every layer of the steered passes in this block.

    weights: float32 [B, H, N], attention of the pass's last row over the last N keys on show.
    """

    def last_row(attention: LayerAttention) -> None:
        row = torch.tensor([attention.query.shape[2] - 1])
        observer(attention.layer, attention.weights(row)[:, :, 0])

    with observed_attention(last_row):
        yield


@contextmanager
def steered_pass(configs: Sequence[Any], steering: SteeredPass) -> Iterator[None]:
    """Run the decoder whose attention reads ``configs`` under steered attention.

    Raises:
        UnsupportedError: a layer that is to be steered did not ask for attention.
    """
    previous = [config._attn_implementation for config in configs]
    running = _Running(steering, previous[0])
    token = _active.set(running)
    try:
        for config in configs:
            config._attn_implementation = IMPLEMENTATION
        yield
        running.check_reached(getattr(configs[0], "model_type", "unknown"))
    finally:
        for config, name in zip(configs, previous, strict=True):
            config._attn_implementation = name
        _active.reset(token)


def dense_mask(mask: Any) -> Any:
    """A mask that can be sliced: flex attention's block masks become bool [B, H, Q, K]."""
    if isinstance(mask, dict):
        return {name: dense_mask(value) for name, value in mask.items()}
    if mask is None or isinstance(mask, Tensor):
        return mask
    from torch.nn.attention.flex_attention import BlockMask, create_mask

    if not isinstance(mask, BlockMask):
        raise UnsupportedError(
            f"Steering cannot read an attention mask of type {type(mask).__name__}; "
            "use attn_implementation 'sdpa' or 'eager'"
        )
    batch, heads, rows, width = mask.shape
    return create_mask(mask.mask_mod, batch, heads, rows, width, device=str(mask.kv_indices.device))


def _aligned_mask(
    mask: Tensor | None, rows: int, width: int, seen: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Bring a mask to the last ``rows`` of ``seen`` tokens and to the ``width`` keys on show."""
    if mask is not None and mask.dim() == 4:
        return mask[:, :, -rows:, -width:]
    if mask is None and rows == 1 and width <= seen:
        return None
    # What is left is flash attention's contract: None or a padding mask [B, N], causal by default.
    row = torch.arange(seen - rows, seen, device=device)[:, None]
    column = torch.arange(width, device=device)[None, :] + max(seen - width, 0)
    allowed = column <= row
    if window is not None:
        allowed &= row - column < window
    allowed = allowed[None, None]
    if mask is not None:
        allowed = allowed & _columns_of_keys(mask.bool(), width)[:, None, None, :]
    return allowed


def _columns_of_keys(columns: Tensor, width: int) -> Tensor:
    """Cut or pad [B, N] to the ``width`` keys that a layer shows: windows drop old ones."""
    if width <= columns.shape[1]:
        return columns[:, -width:]
    return nn.functional.pad(columns, (0, width - columns.shape[1]))


def _steered_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention contract: query [B, H, R, D] -> output [B, R, H, D], weights."""
    running = _active.get()
    if running is None:
        raise UnsupportedError(
            f"The attention implementation {IMPLEMENTATION!r} only runs inside a steered pass; "
            "load the model with its own implementation and use adaptvis.patch(model, config)"
        )
    if kwargs.get("s_aux") is not None:
        raise UnsupportedError("Steering does not support attention sinks (s_aux) yet")
    steering = running.steering
    running.reached.add(int(module.layer_idx))  # type: ignore[arg-type]
    softcap = softcap if has_softcap(running.base) else None
    rows, width = query.shape[2], key.shape[2]
    device = query.device
    seen = steering.columns.shape[1]
    mask = _aligned_mask(attention_mask, rows, width, seen, sliding_window, device)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer_is_steered = int(module.layer_idx) in steering  # type: ignore[arg-type]

    show(
        lambda: LayerAttention(
            layer=int(module.layer_idx),  # type: ignore[arg-type]
            module=module,
            query=query,
            key=key,
            mask=mask,
            scaling=scaling,
            softcap=softcap,
            tokens_seen=seen,
            columns=_columns_of_keys(steering.columns, width).to(device),
            row_alpha=steering.row_alpha.to(device) if layer_is_steered else None,
            heads=steering.head_mask(query.shape[1], device),
        )
    )

    first = steering.first_row if layer_is_steered else rows
    if softcap is not None or steering.weights:
        first = 0
    outputs, weights = [], None
    if first > 0:
        head = None if mask is None else mask[:, :, :first]
        plain, _ = sdpa_attention_forward(
            module, query[:, :, :first], key, value, head, scaling=scaling, is_causal=False
        )
        outputs.append(plain)
    if first < rows:
        alpha = steering.row_alpha[:, first:].to(device)
        options: dict[str, Any] = {
            "image_columns": _columns_of_keys(steering.columns, width).to(device),
            "row_alpha": alpha if layer_is_steered else torch.ones_like(alpha),
            "mask": None if mask is None else mask[:, :, first:],
            "scaling": scaling,
            "heads": steering.head_mask(query.shape[1], device),
            "softcap": softcap,
        }
        rows_of_pass = query[:, :, first:]
        if steering.weights:
            steered, weights = torch_attention.steered_attention(
                rows_of_pass, key, value, **options
            )
        else:
            steered = steered_attention(rows_of_pass, key, value, **options)
        outputs.append(steered.transpose(1, 2))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return output.contiguous(), weights if first == 0 else None


def attention_configs(decoder: nn.Module) -> list[Any]:
    """The configurations from which the decoder's layers read their attention implementation."""
    configs: dict[int, Any] = {id(decoder.config): decoder.config}
    for module in decoder.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            configs[id(module.config)] = module.config
    return list(configs.values())


AttentionInterface.register(IMPLEMENTATION, torch.compiler.disable(_steered_attention_forward))
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
