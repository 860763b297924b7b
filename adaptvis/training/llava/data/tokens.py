"""Tokens and labels of a training text.

The whole text is tokenised at once, as at inference: the tokenisation of a concatenation is not
the concatenation of tokenisations. Labels come from each token's character offsets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis.errors import DataError, UnsupportedError
from adaptvis.training.llava.data.prompts import TrainingText

__all__ = ["IGNORED", "ImageTokens", "Tokens", "expand_images", "tokenise", "truncate"]

IGNORED = -100
"""The label of a token without loss."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """One image as the model sees it: placeholder tokens in the text, a picture in pixels."""

    token_id: int
    count: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and labels, int64 [n] both."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def tokenise(tokenizer: Any, text: TrainingText) -> Tokens:
    """Ids, one placeholder per image, and labels: the id where the model has to produce it.

    A token counts as the model's if it holds a character of an answer or of the end of sequence,
    or lies between the generation prompt and the answer.

    Raises:
        UnsupportedError: the tokenizer does not tell offsets (it is not a fast one).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedError(
            f"{type(tokenizer).__name__} does not tell where its tokens lie in the text, which "
            "label masking needs; save the model with a fast tokenizer (tokenizer.json)"
        )
    start = tokenizer.bos_token
    encoded = tokenizer(
        text.text,
        add_special_tokens=not (start and text.text.startswith(start)),
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    begin, end = offsets[:, 0], offsets[:, 1]
    produced = np.zeros(len(ids), dtype=bool)
    for span in text.spans:
        produced |= (begin < span.stop) & ((begin >= span.prompt_end) | (end > span.answer))
        # Tokens after the span begin at its end or later; those before it end before the answer.
    return Tokens(ids, np.where(produced, ids, IGNORED))


def expand_images(tokens: Tokens, image: ImageTokens, images: int, where: str) -> Tokens:
    """Writes each placeholder as often as the model needs it.

    Raises:
        DataError: the text has not one placeholder per image (a text spells out the special token,
            or the template writes none).
    """
    placeholders = tokens.ids == image.token_id
    if (found := int(placeholders.sum())) != images:
        raise DataError(
            f"{where}: the prompt has {found} image tokens for {images} images; the chat template "
            "must write one per image, and no text may hold the token itself"
        )
    if not images:
        return tokens
    repeats = np.where(placeholders, image.count, 1)
    return Tokens(np.repeat(tokens.ids, repeats), np.repeat(tokens.labels, repeats))


def truncate(tokens: Tokens, max_length: int, image: ImageTokens, where: str) -> Tokens:
    """The first `max_length` tokens; all image tokens are among them.

    Raises:
        DataError: an image does not fit.
    """
    if len(tokens.ids) <= max_length:
        return tokens
    placeholders = np.flatnonzero(tokens.ids == image.token_id)
    if placeholders.size and (needed := int(placeholders[-1]) + 1) > max_length:
        raise DataError(
            f"{where}: its images end at token {needed} and max_length is {max_length}; raise "
            "max_length or leave the sample out"
        )
    return Tokens(tokens.ids[:max_length], tokens.labels[:max_length])
