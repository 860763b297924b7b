"""Which image tokens of a batch are steered: all, those of some images, or those under regions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from adaptvis.config import AttentionSteering
from adaptvis.errors import AdaptVisWarning, PromptError, UnsupportedError
from adaptvis.hf.crops import runs_per_picture
from adaptvis.hf.families import Family
from adaptvis.hf.geometry import image_token_boxes
from adaptvis.steering.spans import image_ordinals, missing_images, run_lengths, tokens_of_images
from adaptvis.steering.token_boxes import tokens_in_region

__all__ = ["lengths_per_prompt", "ordinals_in_prompts", "select_image_tokens"]

_UNKNOWN_IMAGES = (
    "Images may stand side by side in this family's prompts and only the vision encoder tells them "
    "apart, but it has not seen all of them in this call; send the whole prompt with its pixels "
    "and an empty cache, or steer all images"
)


def select_image_tokens(
    steering: AttentionSteering,
    input_ids: Tensor,
    image_tokens: Tensor,
    *,
    family: Family,
    config: Any,
    processor: Any,
    feature_lengths: Sequence[int] | None,
) -> Tensor:
    """Bool [B, N]: the image tokens that ``steering`` selects.

    Args:
        input_ids: [B, N]. image_tokens: bool [B, N], all placeholders.
        processor: needed for regions, and for images of families that cut them into tiles.
        feature_lengths: number of tokens of each image of the batch in order, where the vision
            encoder has just told; otherwise every run of placeholders is one image.

    Raises:
        PromptError: a region's image has another number of tokens than its size implies.
        UnsupportedError: a processor is needed and none was given.
    """
    if steering.images is None and steering.regions is None:
        return image_tokens
    ordinals = ordinals_in_prompts(input_ids, image_tokens, family, processor, feature_lengths)
    images_per_prompt = (ordinals.amax(dim=1) + 1).tolist()
    _warn_of_missing(steering, images_per_prompt)
    if steering.images is not None:
        return tokens_of_images(ordinals, steering.images)

    if processor is None:
        raise UnsupportedError(
            "Regions depend on how the processor resizes and crops; pass it: "
            "adaptvis.patch(model, config, processor=processor)"
        )
    selected = torch.zeros_like(image_tokens)
    for region in steering.regions or ():
        for row in range(len(input_ids)):
            positions = torch.where(ordinals[row] == region.image)[0]
            if len(positions) == 0:
                continue
            in_pieces = int(positions[-1] - positions[0]) >= len(positions)
            boxes = image_token_boxes(
                processor,
                config,
                region.image_size,
                images_in_prompt=images_per_prompt[row],
                image_kwargs={"do_pan_and_scan": family.cropped_images and in_pieces},
            )
            if len(positions) != len(boxes):
                raise PromptError(
                    f"Image {region.image} of prompt {row} has {len(positions)} tokens, but an "
                    f"image of {region.image_size[0]} x {region.image_size[1]} pixels gives "
                    f"{len(boxes)}; give the size of the image that this prompt holds"
                )
            inside = tokens_in_region(boxes, region).to(image_tokens.device)
            selected[row, positions] |= inside
    return selected


def _warn_of_missing(steering: AttentionSteering, images_per_prompt: Sequence[int]) -> None:
    chosen = steering.images or [region.image for region in steering.regions or ()]
    for count in sorted(set(images_per_prompt)):
        if missing := missing_images(chosen, count):
            warnings.warn(missing, AdaptVisWarning, stacklevel=2)


def lengths_per_prompt(lengths: Sequence[int], totals: Sequence[int]) -> list[list[int]]:
    """Deal the lengths of a batch's images, in order, to prompts with ``totals`` image tokens."""
    remaining, dealt = iter(lengths), []
    for total in totals:
        row: list[int] = []
        while sum(row) < total and (length := next(remaining, None)) is not None:
            row.append(length)
        dealt.append(row)
    return dealt


def ordinals_in_prompts(
    input_ids: Tensor,
    image_tokens: Tensor,
    family: Family,
    processor: Any,
    feature_lengths: Sequence[int] | None,
) -> Tensor:
    """The image that each token belongs to, int64 [B, N], from 0 in each prompt; -1 for others.

    Args: see :func:`select_image_tokens`.

    Raises:
        PromptError: images may stand side by side, and the encoder has not told their lengths; or
            crops cannot be told from images.
        UnsupportedError: the processor's marker is needed and missing, or the family is declared
            as one run per image and the encoder returns several runs as one.
    """
    if not image_tokens.any():
        return image_ordinals(image_tokens)
    if family.tiled_images:
        return _ordinals_of_tiled(input_ids, image_tokens, processor)
    runs = run_lengths(image_tokens)
    if family.cropped_images:
        per_picture = [
            runs_per_picture(ids, tokens, processor)
            for ids, tokens in zip(input_ids, image_tokens, strict=True)
        ]
        return image_ordinals(image_tokens, _summed(runs, per_picture))
    if not family.adjacent_images:
        _check_runs(runs, feature_lengths, family)
        return image_ordinals(image_tokens, runs)
    if feature_lengths is None:
        raise PromptError(_UNKNOWN_IMAGES)
    totals = image_tokens.sum(dim=1).tolist()
    counts = lengths_per_prompt(feature_lengths, totals)
    unused = len(feature_lengths) - sum(len(row) for row in counts)
    if unused or [sum(row) for row in counts] != totals:
        raise PromptError(_UNKNOWN_IMAGES)
    return image_ordinals(image_tokens, counts)


def _summed(lengths: list[list[int]], counts: list[list[int]]) -> list[list[int]]:
    """Sums of the first, second, ... ``count`` lengths of each prompt."""
    dealt = [iter(own) for own in lengths]
    return [
        [sum(islice(own, count)) for count in counted]
        for own, counted in zip(dealt, counts, strict=True)
    ]


def _check_runs(
    runs: list[list[int]], feature_lengths: Sequence[int] | None, family: Family
) -> None:
    """Refuse to take runs for images where the encoder counts several runs as one image."""
    lengths = [length for own in runs for length in own]
    if feature_lengths is None or sum(feature_lengths) != sum(lengths):
        return
    if not set(accumulate(lengths)) <= set(accumulate(feature_lengths)):
        raise UnsupportedError(
            f"Images of family {family.model_type!r} stand in several runs of image tokens, so "
            "runs do not count them; declare it with "
            "adaptvis.hf.register_family(Family(..., adjacent_images=True))"
        )


def _ordinals_of_tiled(input_ids: Tensor, image_tokens: Tensor, processor: Any) -> Tensor:
    """Idefics3 and SmolVLM: an image is its tiles, then its thumbnail behind the global marker."""
    marker = getattr(processor, "global_image_token", getattr(processor, "global_image_tag", None))
    if marker is None:
        raise UnsupportedError(
            "Choosing images or regions of this family needs the processor's global-image marker; "
            "pass it: adaptvis.patch(model, config, processor=processor)"
        )
    token = processor.tokenizer.convert_tokens_to_ids(marker)
    markers = (input_ids == token).cumsum(dim=1)
    previous = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1]
    starts = image_tokens & ~torch.nn.functional.pad(image_tokens, (1, 0))[:, :-1]
    # The run right behind a marker is the thumbnail, the last piece of its image.
    run = starts.cumsum(dim=1)
    thumbnail = torch.zeros_like(image_tokens)
    for row in range(len(input_ids)):
        runs = run[row][starts[row] & (previous[row] == token)]
        thumbnail[row] = torch.isin(run[row], runs) & image_tokens[row]
    return torch.where(image_tokens, markers - thumbnail.long(), -1)
