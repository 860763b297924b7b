"""Rotating keys by some positions more, as the model's own rotary embedding would.

RoPE rotates coordinate pairs (i, i + m) of a head by position * inverse frequency i, m the number
of frequencies (half-split; with partial rotary embedding the first 2 m coordinates). Rotations
add up, so a key that already stands at position p is brought to p + steps by one more rotation,
whatever scaled its cosines (YaRN). With M-RoPE a frequency belongs to time, height or width; here
all three move by the same steps, and every frequency again turns by steps * inverse frequency.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from adaptvis.errors import UnsupportedError

__all__ = ["inverse_frequencies", "rotate"]


def inverse_frequencies(decoder: Any, attention: nn.Module) -> Tensor:
    """Angle per position of each coordinate pair in one layer, float [m].

    Scaled as the model scales it, and as of the latest forward pass where that changes it.

    Args:
        decoder: the text decoder. attention: the layer's attention module.

    Raises:
        UnsupportedError: the layer has no rotary embedding, or pairs coordinates differently.
    """
    rotary = getattr(decoder, "rotary_emb", None)
    layer_type = getattr(attention, "layer_type", None)
    frequencies = getattr(rotary, f"{layer_type}_inv_freq", None)
    if frequencies is None:
        frequencies = getattr(rotary, "inv_freq", None)
    if not isinstance(frequencies, Tensor) or getattr(attention, "use_rope", True) is False:
        raise UnsupportedError(
            f"{type(attention).__name__} has no rotary position embedding in a module rotary_emb "
            f"of {type(decoder).__name__}, which the RoPE probe turns; use a model that has"
        )
    pairing = getattr(sys.modules[type(attention).__module__], "rotate_half", None)
    probe = torch.arange(2.0 * len(frequencies))
    if pairing is None or not torch.equal(pairing(probe), _half_turned(probe)):
        raise UnsupportedError(
            f"{type(attention).__name__} does not pair the two halves of a head in its rotary "
            "embedding, and the RoPE probe knows only that; use a model with half-split RoPE"
        )
    return frequencies


def rotate(keys: Tensor, angles: Tensor) -> Tensor:
    """Turn coordinate pairs (i, i + m) by ``angles`` [m]; keys [..., D] with D >= 2 m."""
    angles = angles.to(keys.device, keys.dtype)
    turned, kept = keys.split([2 * len(angles), keys.shape[-1] - 2 * len(angles)], dim=-1)
    cos, sin = angles.cos().repeat(2), angles.sin().repeat(2)
    return torch.cat([turned * cos + _half_turned(turned) * sin, kept], dim=-1)


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
