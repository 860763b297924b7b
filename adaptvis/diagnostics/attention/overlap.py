"""How much of a row's attention on the image falls on the objects that the question is about.

Source: AdaptVis (arXiv 2503.01773), analysis of attention against object boxes: in the middle
layers it separates right from wrong answers (AUROC .948 in layer 17 of LLaVA-1.5 on
Controlled_A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["attention_on_boxes", "box_coverage"]

Box = tuple[float, float, float, float]


def box_coverage(token_boxes: NDArray[np.float64], boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Which part of each token's area lies in the boxes, float64 [T], from 0 to 1.

    Boxes that overlap each other count twice up to the whole token.

    Args:
        token_boxes: [T, 4], (left, top, right, bottom); NaN for tokens without a place, which lie
            in no box. boxes: in the same unit.
    """
    left, top, right, bottom = token_boxes.T
    covered = np.zeros(len(token_boxes))
    for box in boxes:
        across = np.clip(np.minimum(right, box[2]) - np.maximum(left, box[0]), 0, None)
        down = np.clip(np.minimum(bottom, box[3]) - np.maximum(top, box[1]), 0, None)
        covered += np.nan_to_num(across * down / ((right - left) * (bottom - top)))
    return np.minimum(covered, 1)


def attention_on_boxes(weights: Any, coverage: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of the attention on the image that falls on the boxes, [...], from 0 to 1.

    Args:
        weights: [..., T], on the image tokens. coverage: [T].

    Returns:
        NaN where there is no attention on the image.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = weights.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (weights * coverage).sum(axis=-1) / total, np.nan)
