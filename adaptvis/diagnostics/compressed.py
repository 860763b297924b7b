"""A model whose image tokens are average-pooled at inference, with that much shorter prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptvis.engine import Query
from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.hooks import MethodHook

__all__ = [
    "PUBLISHED",
    "compressed",
    "default_sizes",
    "grid_side",
    "pool_square",
    "tokens_per_image",
]

PUBLISHED = (256, 64, 16, 1)
"""Tokens per image in section 3.2 of Beyond Semantics."""

_ONE_GRID = ("llava", "adaptvis_llava", "gemma3", "paligemma")


def pool_square(features: Tensor, tokens: int) -> Tensor:
    """Average-pool the square grid of one image [N, D], in reading order, to [tokens, D].

    Each output is the mean of its cell; where sides do not divide, cells overlap by a row or a
    column, as in ``torch.nn.functional.adaptive_avg_pool2d``.

    Raises:
        UnsupportedError: N is no square number.
    """
    side, wanted = math.isqrt(len(features)), math.isqrt(tokens)
    if side * side != len(features):
        raise UnsupportedError(
            f"Compression pools a square grid, and this model gives {len(features)} tokens per "
            "image; use a model with one square grid (and without the class token) per image"
        )
    grid = features.T.reshape(1, -1, side, side)
    pooled = F.adaptive_avg_pool2d(grid.float(), wanted).to(features.dtype)
    return pooled.reshape(-1, wanted * wanted).T


def grid_side(engine: HFEngine, query: Query) -> int:
    """The side of the grid of tokens that the model makes of each image.

    Raises:
        UnsupportedError: images are cut into tiles, or the grid is not square, or its shape
            depends on the image's.
        ConfigError: the query has no image.
    """
    family = engine.family
    tower = getattr(getattr(engine.model.config, "vision_config", None), "model_type", "")
    if family.model_type not in _ONE_GRID or tower == "pixtral":
        raise UnsupportedError(
            f"Compression needs one square grid of tokens per image, and a {family.model_type} "
            "model cuts images into tiles or follows their shape; it works for "
            f"{', '.join(_ONE_GRID)}"
        )
    count = tokens_per_image(engine, query)
    side = math.isqrt(count)
    if side * side != count:
        raise UnsupportedError(
            f"Compression needs one square grid of tokens per image, and this model has {count} "
            "tokens per image: it keeps a class token or cuts images into tiles; no pooling is "
            "defined for these"
        )
    return side


def tokens_per_image(engine: HFEngine, query: Query) -> int:
    """Image tokens of a query, divided by its images.

    Raises:
        ConfigError: the query has no image.
    """
    if not query.images:
        raise ConfigError("Compression needs questions with images; give another task")
    ids = engine.encode([query])["input_ids"]
    count = int((ids == engine.family.placeholder_of(engine.model.config)).sum())
    return count // len(query.images)


def default_sizes(side: int) -> tuple[int, ...]:
    """The published sizes below side * side; with those of halved sides where few fit."""
    sizes = {size for size in PUBLISHED if size < side * side}
    if len(sizes) < len(PUBLISHED):
        half = side
        while half > 1:
            half = (half + 1) // 2
            sizes.add(half * half)
    return tuple(sorted(sizes, reverse=True))


@contextmanager
def compressed(engine: HFEngine, side: int, tokens: int) -> Iterator[HFEngine]:
    """An engine around the same model that gives each image ``tokens`` tokens.

    The projected grid is average-pooled, the prompt has that many placeholders, and positions are
    those of the shorter prompt, as in a model trained so. Outside the block the model is as before.

    Args:
        side: what :func:`grid_side` says.
        tokens: a square number, at most side * side.

    Raises:
        ConfigError: it is not.
    """
    wanted = math.isqrt(max(tokens, 0))
    if wanted < 1 or wanted * wanted != tokens or wanted > side:
        raise ConfigError(
            f"The number of tokens must be a square number from 1 to {side * side}, got {tokens}"
        )

    def pool(original: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        features = outputs.pooler_output
        pooled = [pool_square(image, tokens) for image in features]
        if isinstance(features, Tensor):
            outputs.pooler_output = torch.stack(pooled)
        else:
            outputs.pooler_output = type(features)(pooled)
        return outputs

    hook = MethodHook(engine.family.features_of(engine.model), "get_image_features", pool)
    try:
        yield _ShorterPrompts(engine, side * side, tokens)
    finally:
        hook.remove()


class _ShorterPrompts(HFEngine):
    """The same model with fewer placeholders per image."""

    def __init__(self, engine: HFEngine, before: int, after: int) -> None:
        super().__init__(engine.model, engine.processor, engine.source)
        self._before, self._after = before, after

    def encode(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """Processor outputs for a batch, with placeholders taken out, padded on the left."""
        inputs = super().encode(queries)
        ids, attended = inputs["input_ids"], inputs["attention_mask"].bool()
        image = ids == self.family.placeholder_of(self.model.config)
        for query, row in zip(queries, image, strict=True):
            if int(row.sum()) != self._before * len(query.images):
                raise UnsupportedError(
                    f"A prompt has {int(row.sum())} image tokens (images: {len(query.images)}), "
                    f"where {self._before} per image were expected; compression needs "
                    "one grid of the same size per image"
                )
        within = (image.cumsum(dim=1) - 1) % self._before
        kept = attended & (~image | (within < self._after))
        length = int(kept.sum(dim=1).max())
        fill = {"input_ids": self.processor.tokenizer.pad_token_id or 0}
        for name, tensor in inputs.items():
            if tensor.shape == ids.shape:
                short = tensor.new_full((len(ids), length), fill.get(name, 0))
                for row, (values, keep) in enumerate(zip(tensor, kept, strict=True)):
                    count = int(keep.sum())
                    short[row, length - count :] = values[keep]
                inputs[name] = short
        return inputs
