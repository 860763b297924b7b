"""The parts of a prompt, and the rows of its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adaptvis.diagnostics.attention.template_parts import template_parts
from adaptvis.engine import Query
from adaptvis.errors import DataError, PromptError

__all__ = ["LAST_ROW", "TEXT_ROWS", "PromptParts", "find_word", "prompt_parts", "word_rows"]

LAST_ROW = "last prompt token"
"""The last row of a prompt, from which the first token of the answer is read."""

TEXT_ROWS = "text rows"
"""The average over all rows of text behind the first image token, that last one included."""

_LONGEST_WORD = 8
"""Tokens of the longest word or phrase that is looked for."""

_PUNCTUATION = " .,;:?!'\"()"


class PromptParts(NamedTuple):
    """Which of the N tokens of a prompt belong to what.

    system: bool [N], the beginning of sequence and the chat template's system prompt.
    image: bool [N], the image tokens of all images.
    text: bool [N], the user's own words, before and behind the images.
    from_template: the parts are those of the chat template. Without one (a raw prompt) everything
        before the first image token is ``system``, and everything else that is no image ``text``.
    """

    system: Tensor
    image: Tensor
    text: Tensor
    from_template: bool = False

    @property
    def markup(self) -> Tensor:
        """Bool [N], the rest: names of roles, marks around images, the assistant's cue."""
        return ~(self.system | self.image | self.text)

    @property
    def behind(self) -> Tensor:
        """Bool [N], all behind the first image token that is no image token."""
        return (self.image.cumsum(dim=0) > 0) & ~self.image


def prompt_parts(
    input_ids: Tensor, placeholder: int, processor: Any = None, query: Query | None = None
) -> PromptParts:
    """The parts of one prompt without padding, ``input_ids`` [N].

    Args:
        placeholder: id of the image token.
        processor, query: what ``input_ids`` were made of, so that the user's words can be found.

    Raises:
        PromptError: there is no image token.
    """
    image = input_ids == placeholder
    if not bool(image.any()):
        raise PromptError("A prompt without an image has no attention on one; leave it out")
    found = None
    if query is not None and not query.raw:
        found = template_parts(processor, query, input_ids.tolist(), placeholder)
    if found is None:
        system = image.cumsum(dim=0) == 0
        return PromptParts(system, image, ~system & ~image)
    system, text = (torch.tensor(part, device=input_ids.device) for part in found)
    return PromptParts(system, image, text, from_template=True)


def find_word(tokenizer: Any, input_ids: Tensor, word: str, columns: Tensor) -> int | None:
    """Position of the last token of a word's last occurrence, or None.

    Only the last token of a word has seen all of it. A word is found in the decoded text, whatever
    the tokenizer makes of it; capitals do not matter, and "left" is not found in "leftmost".

    Args:
        input_ids: [N]. word: a word, or a phrase of a few.
        columns: bool [N], where to look.
    """
    wanted = " ".join(word.lower().split())
    if not wanted:
        return None
    whole = _whole(wanted)
    ids = input_ids.tolist()
    inside = columns.tolist()

    def text(start: int, stop: int) -> str:
        return " ".join(tokenizer.decode(ids[start:stop]).lower().split())

    def bare(start: int, stop: int) -> str:
        return text(start, stop).strip(_PUNCTUATION)

    for stop in range(len(ids), 0, -1):
        for start in range(stop - 1, max(stop - 1 - _LONGEST_WORD, -1), -1):
            if not inside[start]:
                break
            # The last token must belong to the word, and neighbours tell whether it goes on.
            if bare(start, stop) != wanted or bare(start, stop - 1) == wanted:
                continue
            before = start - 1 if start and inside[start - 1] else start
            if whole.search(text(before, stop + 1)):
                return stop - 1
    return None


def check_words(prompts: Sequence[str], words: Sequence[str]) -> None:
    """Refuse a word that no prompt contains, before a model runs.

    Raises:
        DataError: names the word and shows a prompt.
    """
    texts = [" ".join(prompt.lower().split()) for prompt in prompts]
    for word in words:
        whole = _whole(" ".join(word.lower().split()))
        if not any(whole.search(text) for text in texts):
            raise DataError(
                f"No prompt contains {word!r} behind its image; the first says {prompts[0][:80]!r}"
            )


def _whole(word: str) -> re.Pattern[str]:
    """The word, not as part of another one."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def word_rows(
    tokenizer: Any, input_ids: Tensor, parts: PromptParts, words: Sequence[str]
) -> dict[str, int]:
    """The row of every word that the text behind the first image contains."""
    found = {}
    for word in words:
        position = find_word(tokenizer, input_ids, word, parts.behind)
        if position is not None:
            found[word] = position
    return found
