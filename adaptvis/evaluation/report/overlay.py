"""Attention maps as the report's script reads them: bytes with a scale per layer."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.attention_map import AttentionMap

__all__ = ["overlay_values"]

_BOX_STEPS = 10_000


def overlay_values(attention: AttentionMap) -> dict[str, Any]:
    """Plain values for JSON.

    boxes: for each token (left, top, right, bottom) in ten-thousandths of its image; null without
        a place. unsteered, steered: `maps` is base64 of bytes [1 + layers, T], the mean over layers
        first, 255 at the largest weight of a row, which is in `scales`; `shares` has each layer's
        attention on the whole image.
    """
    boxes = [
        None if np.isnan(box).any() else np.rint(box * _BOX_STEPS).astype(int).tolist()
        for box in attention.boxes
    ]
    return {
        "image": attention.image.tolist(),
        "boxes": boxes,
        "layers": len(attention.steered),
        "unsteered": _maps(attention.unsteered),
        "steered": _maps(attention.steered),
    }


def _maps(weights: NDArray[np.float32]) -> dict[str, Any]:
    rows = np.concatenate([weights.mean(axis=0, keepdims=True), weights])
    scales = rows.max(axis=1, initial=0)
    steps = np.rint(255 * rows / np.where(scales > 0, scales, 1)[:, None]).astype(np.uint8)
    return {
        "maps": base64.b64encode(steps.tobytes()).decode("ascii"),
        "scales": [float(f"{scale:.4g}") for scale in scales],
        "shares": [round(float(share), 5) for share in rows.sum(axis=1)],
    }
