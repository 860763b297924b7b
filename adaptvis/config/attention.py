"""ScalingVis and AdaptVis: which attention logits are multiplied, and by what."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from adaptvis.config.value import Index, Indices, Number, Value, indices_in_order

__all__ = ["AdaptVis", "AttentionSteering", "Compared", "Region", "Rows", "ScalingVis"]

_LARGEST_COEFFICIENT = 1000.0

Rows = Literal["last_prompt_token", "generated", "text_after_image"]
Compared = Literal["rounded_confidence", "rounded_logit"]


class Region(Value):
    """A box in the pixels of one original image: only the image tokens under it are steered.

    ``box`` is (left, top, right, bottom) in pixels with the origin at the top left, right and
    bottom exclusive. ``image_size`` is (width, height) of the image as given to the processor;
    ``image`` counts the images of one prompt from 0.
    """

    box: tuple[Number, Number, Number, Number]
    image_size: tuple[Index, Index]
    image: Index = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _box_inside_image(self) -> Region:
        left, top, right, bottom = self.box
        width, height = self.image_size
        if not all(math.isfinite(edge) for edge in self.box):
            raise ValueError(f"box {self.box} has an edge that is not a finite number")
        if left >= right or top >= bottom:
            raise ValueError(f"box {self.box} is empty: left < right and top < bottom are needed")
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ValueError(
                f"box {self.box} reaches outside the image of {width} x {height} pixels"
            )
        return self


class AttentionSteering(Value):
    """What ScalingVis and AdaptVis share: *where* the coefficient is applied.

    layers: decoder layers, counted from 0; default all. Also accepts ``"1-3,7"``.
    heads: query heads, the same in every steered layer; default all.
    rows: which query rows are steered. ``"last_prompt_token"`` as published, in the prefill only;
        ``"generated"`` that row and every decode step; ``"text_after_image"`` every prompt row
        after the first image that stands for text, not for an image, a video or a sound.
    images: which images of a prompt, counted from 0; default all.
    regions: pixel boxes; only the image tokens under them are steered. Excludes ``images``.
    """

    layers: Indices | None = None
    heads: Indices | None = None
    rows: Rows = "last_prompt_token"
    images: Indices | None = None
    regions: tuple[Region, ...] | None = None

    _ordered = field_validator("layers", "heads", "images")(indices_in_order)

    @model_validator(mode="after")
    def _one_selection_of_image_tokens(self) -> AttentionSteering:
        if self.regions is not None and not self.regions:
            raise ValueError("regions is empty; leave it out to steer every image token")
        if self.regions is not None and self.images is not None:
            raise ValueError("give either images or regions (a region names its image), not both")
        return self


def _coefficient(value: float) -> float:
    # Larger ones could overflow a logit, and NaN in a cache outlives the request.
    if not 0 <= value <= _LARGEST_COEFFICIENT:
        raise ValueError(
            f"a coefficient must be a finite number from 0 to {_LARGEST_COEFFICIENT:g}, got {value}"
        )
    return value


class ScalingVis(AttentionSteering):
    """Multiply the raw attention logits from the steered rows to the image tokens by ``alpha``.

    ``s_ij <- alpha * s_ij`` before mask and softmax (AdaptVis paper, section 4). The coefficient
    acts on *raw* logits: alpha > 1 sharpens attention within the image, alpha < 1 flattens it, and
    where logits are negative alpha > 1 *lowers* the image's share. alpha is 1 / temperature.
    alpha = 0 flattens completely: every image token counts alike.
    """

    method: Literal["scalingvis"] = "scalingvis"
    alpha: Number

    _finite = field_validator("alpha")(_coefficient)


class AdaptVis(AttentionSteering):
    """Pick the coefficient per prompt from the model's own confidence (AdaptVis paper, section 5).

    ``confidence`` is the largest softmax probability of the first generated token with alpha = 1,
    from raw logits. ``alpha = alpha_low if confidence < threshold else alpha_high``. The defaults
    are the published ones for LLaVA-1.5 on Controlled_A. alpha_low > alpha_high is allowed: some
    models gain by sharpening when unsure.

    compared: what is held against the threshold instead, to follow the authors' code.
        ``"rounded_confidence"``: the confidence rounded to two decimals (0.396 is 0.4, so not below
        0.4), as on all their tasks but VSR. ``"rounded_logit"``: the largest raw logit, rounded
        alike, as on VSR: practically always above the threshold, which takes alpha_high. Decisions
        report the confidence all the same.
    """

    method: Literal["adaptvis"] = "adaptvis"
    alpha_low: Number = 0.5
    alpha_high: Number = 1.5
    threshold: Number = 0.4
    compared: Compared | None = None

    @field_validator("alpha_low", "alpha_high")
    @classmethod
    def _finite(cls, value: float) -> float:
        if _coefficient(value) == 0:
            raise ValueError("a coefficient must be above 0; only ScalingVis(alpha=0) is defined")
        return value

    @field_validator("threshold")
    @classmethod
    def _probability(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"threshold is a probability between 0 and 1, got {value}")
        return value
