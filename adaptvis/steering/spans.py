"""Which tokens belong to images, to which image, and which rows are steered.

Prompts are rows of ``input_ids`` [B, N], usually padded on the left. Image tokens may stand
anywhere, in any number of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from adaptvis.config import Rows

__all__ = [
    "image_ordinals",
    "missing_images",
    "run_lengths",
    "steered_rows",
    "tokens_of_images",
]


def run_lengths(image_tokens: Tensor) -> list[list[int]]:
    """Lengths of the runs of consecutive image tokens in each prompt; ``image_tokens`` [B, N]."""
    lengths = []
    for row in image_tokens.cpu():
        edges = torch.diff(row.to(torch.int8), prepend=row.new_zeros(1), append=row.new_zeros(1))
        starts, stops = torch.where(edges == 1)[0], torch.where(edges == -1)[0]
        lengths.append((stops - starts).tolist())
    return lengths


def image_ordinals(
    image_tokens: Tensor, tokens_per_image: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """The image that each token belongs to, counted from 0 in each prompt; -1 for other tokens.

    Args:
        image_tokens: bool [B, N].
        tokens_per_image: for each prompt the number of tokens of each of its images, in order;
            None takes every run of consecutive image tokens as one image.

    Returns:
        int64 [B, N].

    Raises:
        ValueError: the numbers of a prompt do not add up to its image tokens.
    """
    counts = run_lengths(image_tokens) if tokens_per_image is None else tokens_per_image
    ordinals = torch.full(image_tokens.shape, -1, dtype=torch.long)
    for row, (tokens, lengths) in enumerate(zip(image_tokens.cpu(), counts, strict=True)):
        positions = torch.where(tokens)[0]
        if sum(lengths) != len(positions):
            raise ValueError(
                f"prompt {row} has {len(positions)} image tokens, but its images account for "
                f"{sum(lengths)}"
            )
        images = torch.arange(len(lengths)).repeat_interleave(
            torch.tensor(lengths, dtype=torch.long)
        )
        ordinals[row, positions] = images
    return ordinals.to(image_tokens.device)


def tokens_of_images(ordinals: Tensor, images: Sequence[int]) -> Tensor:
    """Bool [B, N]: the tokens of the chosen images, given :func:`image_ordinals`."""
    return torch.isin(ordinals, torch.tensor(list(images), device=ordinals.device))


def missing_images(chosen: Collection[int], count: int) -> str:
    """What to say of chosen images that a prompt of ``count`` images has not; empty if it has all.

    A prompt with none of them is not steered at all, which is said elsewhere.
    """
    missing = sorted(image for image in set(chosen) if image >= count)
    if not missing or len(missing) == len(set(chosen)):
        return ""
    return (
        f"Of the images to be steered, a prompt of {count} lacks {', '.join(map(str, missing))} "
        "(they count from 0); the others were steered"
    )


def steered_rows(
    rows: Rows,
    image_tokens: Tensor,
    prompt_length: int | Sequence[int],
    padding: Tensor | None = None,
    placeholders: Tensor | None = None,
) -> Tensor:
    """Which query rows take the coefficient: bool [B, N].

    Args:
        rows: see :class:`adaptvis.config.AttentionSteering`.
        image_tokens: bool [B, N], all image tokens.
        prompt_length: columns of the prompt, one number for all or one per prompt; later columns
            were generated.
        padding: bool [B, N], True for padding; such rows are never steered.
        placeholders: bool [B, N], tokens that stand for a video or a sound and so are no text;
            None where there are none.
    """
    columns = torch.arange(image_tokens.shape[1], device=image_tokens.device)
    ends = torch.as_tensor(prompt_length, device=image_tokens.device).reshape(-1, 1)
    if rows == "last_prompt_token":
        chosen = (columns == ends - 1).expand_as(image_tokens)
    elif rows == "generated":
        chosen = (columns >= ends - 1).expand_as(image_tokens)
    else:
        after_image = image_tokens.cumsum(dim=1) > 0
        chosen = after_image & ~image_tokens & (columns < ends)
        chosen = chosen if placeholders is None else chosen & ~placeholders
    return chosen if padding is None else chosen & ~padding
