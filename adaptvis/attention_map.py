"""Where the last prompt token looks: its attention over the image tokens of one question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from adaptvis.errors import DataError, OutputError

__all__ = ["AnswerKey", "AttentionMap", "read_attention_maps", "write_attention_maps"]

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


def write_attention_maps(path: Path, maps: Mapping[AnswerKey, AttentionMap]) -> None:
    """Write maps as one safetensors file.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(attention, name))
        for number, attention in enumerate(maps.values())
        for name in _TENSORS
    }
    metadata = {"version": _VERSION, "answers": json.dumps([list(key) for key in maps])}
    try:
        save_file(tensors, path, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write {path}: {error}") from None


def read_attention_maps(path: Path) -> dict[AnswerKey, AttentionMap]:
    """The maps of a file that :func:`write_attention_maps` wrote; none where there is no file.

    Raises:
        DataError: it is another kind of file, or damaged.
    """
    if not path.exists():
        return {}
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            keys = json.loads((file.metadata() or {})["answers"])
        tensors = load_file(path)
        return {
            AnswerKey(*map(str, key)): AttentionMap(
                **{name: tensors[f"{number}.{name}"] for name in _TENSORS}
            )
            for number, key in enumerate(keys)
        }
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} does not hold attention maps ({error}); remove it, and the report shows none"
        ) from None
