"""Folds of whole images, so that no setting is judged on a picture that it was chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.errors import DataError

__all__ = ["FEWEST_IMAGES", "FOLDS", "check_images", "fold_of_each"]

FOLDS = 5
FEWEST_IMAGES = 2 * FOLDS


def check_images(images: Sequence[str] | NDArray[Any], fewest: int = FEWEST_IMAGES) -> None:
    """Raises DataError where questions are about fewer images than ``fewest``."""
    count = len(set(images))
    if count < fewest:
        raise DataError(
            f"Tuning needs at least {fewest} images, got {count}; raise the limit, or add images"
        )


def fold_of_each(images: Sequence[str] | NDArray[Any], seed: int) -> NDArray[np.intp]:
    """The fold of every question, 0 to 4.

    Args:
        images: the image of every question.

    Raises:
        DataError: fewer than ten images.
    """
    names, cluster = np.unique(np.asarray(images), return_inverse=True)
    check_images(names)
    return (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[cluster]
