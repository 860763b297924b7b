"""Where the image tokens of a vLLM request are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Runs", "image_columns", "image_runs"]

# Half-open runs of image tokens of one image. Placeholders may hold other tokens between them.
Runs = list[tuple[int, int]]


def image_runs(mm_features: Iterable[Any] | None) -> list[Runs]:
    """The runs of image tokens of each image, in the order of the prompt."""
    return [
        [(first, last + 1) for first, last in feature.mm_position.extract_embeds_range()]
        for feature in mm_features or ()
        if feature.modality == "image"
    ]


def image_columns(
    images: Sequence[Runs], selected: Sequence[int] | None, prompt_length: int
) -> NDArray[np.bool_]:
    """Bool [prompt_length]: the tokens of the selected images; None selects all."""
    columns = np.zeros(prompt_length, dtype=bool)
    for index, runs in enumerate(images):
        if selected is None or index in selected:
            for start, stop in runs:
                columns[start:stop] = True
    return columns
