"""Where the last prompt token looks: its attention over the image tokens of one question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaptvis.errors import DataError

__all__ = ["AnswerKey", "AttentionMap", "pack_attention_maps", "read_attention_maps"]

_VERSION = "1"
_TENSORS = ("image", "boxes", "unsteered", "steered")


class AnswerKey(NamedTuple):
    """Whose attention it is."""

    model: str
    task: str
    id: str
    method: str


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention weights of the last prompt token on the T image tokens, without and with steering.

    image: int64 [T], which of the prompt's images a token belongs to.
    boxes: float64 [T, 4], (left, top, right, bottom) as fractions of that image; NaN without a
        place in it.
    unsteered, steered: float32 [layers, T], means over the query heads. A row sums to the share of
        the layer's attention that goes to the image.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    unsteered: NDArray[np.float32]
    steered: NDArray[np.float32]


def pack_attention_maps(maps: Mapping[AnswerKey, AttentionMap]) -> bytes:
    """The content of one safetensors file."""
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(attention, name))
        for number, attention in enumerate(maps.values())
        for name in _TENSORS
    }
    metadata = {"version": _VERSION, "answers": json.dumps([list(key) for key in maps])}
    return save(tensors, metadata=metadata)


def read_attention_maps(path: Path) -> dict[AnswerKey, AttentionMap]:
    """The maps of a file; none where there is no file.

    Raises:
        DataError: it is another kind of file, or damaged.
    """
    if not path.exists():
        return {}
    maps = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for number, key in enumerate(json.loads((file.metadata() or {})["answers"])):
                tensors = {name: file.get_tensor(f"{number}.{name}") for name in _TENSORS}
                maps[AnswerKey(*map(str, key))] = _checked(AttentionMap(**tensors))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} does not hold attention maps ({error}); remove it, and the report shows none"
        ) from None
    return maps


def _checked(attention: AttentionMap) -> AttentionMap:
    tokens = len(attention.image)
    shapes = (attention.boxes.shape, attention.unsteered.shape, attention.steered.shape)
    layers = len(attention.steered)
    if shapes != ((tokens, 4), (layers, tokens), (layers, tokens)):
        raise ValueError(f"shapes {shapes} for {tokens} image tokens")
    if not (np.isfinite(attention.unsteered).all() and np.isfinite(attention.steered).all()):
        raise ValueError("a weight is not a finite number")
    return attention
