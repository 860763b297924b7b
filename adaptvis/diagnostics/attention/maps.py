"""Heat maps: where rows of a few prompts look in their image, without and with steering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.attention.capture import attend
from adaptvis.diagnostics.attention.parts import LAST_ROW
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.results import Result
from adaptvis.errors import ConfigError, DataError
from adaptvis.hf.active import method_names, steering_record, steering_under
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.image_attention import token_places
from adaptvis.tasks import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AttentionMapsResult", "ImageMap", "measure_attention_maps"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ImageMap:
    """One prompt's attention on its first image.

    picture: RGB. boxes: float64 [T, 4], of the first image's tokens, fractions of it; NaN without
    a place. asked: boxes of the asked objects. maps: (row, steering) -> float32 [T], attention
    weights, means over heads and over the chosen layers. shares: the same keys -> attention on all
    images.
    """

    id: str
    prompt: str
    picture: Image
    boxes: NDArray[np.float64]
    asked: tuple[Box, ...]
    maps: Mapping[tuple[str, str], NDArray[np.float32]]
    shares: Mapping[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class AttentionMapsResult(Result):
    """Heat maps of a few prompts; layers: those that were averaged."""

    instrument = "attention_maps"
    title = "Where the model looks in the image"
    source = "AdaptVis (arXiv 2503.01773), attention maps; Beyond Semantics, section 7.1, figure 7"

    examples: tuple[ImageMap, ...]
    layers: tuple[int, ...]

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(row, steering) of each map, in the order of the picture."""
        return tuple(dict.fromkeys(key for one in self.examples for key in one.maps))

    def summary(self) -> dict[str, Any]:
        """The image's share of the attention, per prompt and map."""
        return {
            one.id: {f"{row}, {steering}": share for (row, steering), share in one.shares.items()}
            for one in self.examples
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per prompt, map and image token, with its box (None without a place)."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for one in self.examples:
            for (row, steering), weights in one.maps.items():
                for token, (weight, box) in enumerate(zip(weights, one.boxes, strict=True)):
                    edges = [None] * 4 if np.isnan(box).any() else box.tolist()
                    yield {
                        "id": one.id,
                        "row": row,
                        "steering": steering,
                        "token": token,
                        "weight": float(weight),
                        **dict(zip(("left", "top", "right", "bottom"), edges, strict=True)),
                    }

    def figure(self) -> Figure:
        """One line per prompt: the picture, then its maps, steered beside unsteered."""
        from adaptvis.diagnostics.attention.map_drawing import draw_maps

        return draw_maps(self)

    def reading(self) -> str:
        """What was measured and how to read the picture."""
        steered = any(steering != self.columns[0][1] for _, steering in self.columns)
        text = (
            f"Attention weights on the image tokens of {len(self.examples)} prompts, from the rows "
            f"named above each map, averaged over the heads of layers {_spans(self.layers)}, drawn "
            "on the picture where each token stands. Brighter is more; all maps of one line "
            "share a scale, whose upper end is the largest part of the attention on one token. The "
            "percentage is the image's part of the row's attention; the "
            "outlines are the objects that the question is about, where the task knows them."
        )
        count = self.settings.get("questions without an image", 0)
        text += f" {count} question(s) without an image are left out." if count else ""
        return text + (" Steered maps stand to the right of unsteered ones." if steered else "")


def measure_attention_maps(
    engine: HFEngine,
    samples: Sequence[Sample],
    *,
    config: SteeringConfig | None = None,
    words: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> AttentionMapsResult:
    """Where the last prompt row, and the rows of chosen words, look in the first image.

    Args:
        samples: the prompts to show; of each its first image.
        layers: average these; None averages all.

    Raises:
        ConfigError: the model has no such layer.
        DataError: no question has an image; those without one are left out.
        UnknownFamilyError, UnsupportedError: the places of image tokens are not known.
    """
    if not samples:
        raise DataError("There is no question to look at; give a task with some")
    count = len(engine.family.decoder_of(engine.model).layers)
    chosen = tuple(range(count)) if layers is None else tuple(sorted(set(layers)))
    if not chosen or not set(chosen) <= set(range(count)):
        raise ConfigError(
            f"The model has {count} layers, counted from 0; got {', '.join(map(str, chosen))}"
        )
    active = steering_under(engine.model, config)
    names = ("unsteered", method_names(active)) if active else ("unsteered",)
    examples = []
    for number, sample in enumerate(samples):
        progress("attention maps", number + 1, len(samples))
        query = sample.query()
        if not query.images:
            continue
        pair = attend(engine, query, config, words=words)
        image, boxes = token_places(engine, query, pair[0].tokens[2])
        maps, shares = {}, {}
        for row in (LAST_ROW, *words):
            for name, found in zip(names, pair, strict=False):
                if row in found.rows:
                    index = found.rows[row]
                    weights = found.weights[list(chosen), index].mean(axis=0)
                    maps[row, name] = weights[image == 0]
                    shares[row, name] = float(weights.sum())
        examples.append(
            ImageMap(
                id=sample.id,
                prompt=sample.prompt,
                picture=query.images[0],
                boxes=boxes[image == 0],
                asked=sample.asked_boxes,
                maps=maps,
                shares=shares,
            )
        )
    if not examples:
        raise DataError(f"None of the {len(samples)} questions has an image; give a task with some")
    return AttentionMapsResult(
        engine=engine.describe(),
        settings={
            **(settings or {}),
            "steering": steering_record(active),
            "words": list(words),
            "layers": list(chosen),
            "shown": [example.id for example in examples],
            "questions without an image": len(samples) - len(examples),
        },
        examples=tuple(examples),
        layers=chosen,
    )


def _spans(layers: Sequence[int]) -> str:
    """0, 1, 2, 5 -> 0-2, 5."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
