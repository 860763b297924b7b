"""Where prompts end in a call that holds their answers too: from their lengths, or from labels.

An end is the column behind a prompt's last token, so the first column of its answer. Ends may
differ from prompt to prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaptvis.errors import PromptError

__all__ = [
    "PromptLengths",
    "checked_lengths",
    "ends_from_labels",
    "ends_from_lengths",
    "length_of_each",
]

PromptLengths = int | Sequence[int] | Tensor
"""Tokens of each prompt without padding: one number for all rows of a batch, or one per row."""

_IGNORED = -100


def checked_lengths(lengths: PromptLengths | None) -> int | tuple[int, ...] | None:
    """Plain numbers: one for all rows, or one per row.

    Raises:
        PromptError: they are no positive whole numbers.
    """
    if lengths is None:
        return None
    values: Any = lengths.tolist() if hasattr(lengths, "tolist") else lengths
    for_each_row = isinstance(values, list | tuple)
    numbers = (
        tuple(n.item() if hasattr(n, "item") else n for n in values) if for_each_row else (values,)
    )
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not numbers or not whole:
        raise PromptError(
            f"prompt_lengths are the numbers of tokens of the prompts, padding not counted, got "
            f"{lengths!r}; give a positive whole number for all rows, or one per row"
        )
    return tuple(map(int, numbers)) if for_each_row else int(numbers[0])


def length_of_each(lengths: int | tuple[int, ...], prompts: int) -> tuple[int, ...]:
    """One length per prompt.

    Raises:
        PromptError: there is another number of them.
    """
    lengths = (lengths,) * prompts if isinstance(lengths, int) else lengths
    if len(lengths) != prompts:
        raise PromptError(
            f"prompt_lengths has {len(lengths)} numbers, but this call has {prompts} rows; give "
            "one per row, or a single number for all"
        )
    return lengths


def ends_from_lengths(
    lengths: Sequence[int], tokens: Tensor, *, more_follow: bool = False
) -> tuple[int, ...]:
    """The column behind each prompt.

    Args:
        lengths: one per row. tokens: bool [B, N], the columns seen so far that hold tokens and not
            padding.
        more_follow: a prompt may go on in a later call; its end is then beyond N.

    Raises:
        PromptError: a prompt is longer than its row.
    """
    for row, (length, seen) in enumerate(zip(lengths, tokens.sum(dim=1).tolist(), strict=True)):
        if length > seen and not more_follow:
            raise PromptError(
                f"prompt_lengths says that the prompt of row {row} has {length} tokens, but the "
                f"whole row has {seen}; count its tokens with the image's, without padding"
            )
    wanted = torch.tensor(lengths, device=tokens.device)[:, None]
    before = (tokens.cumsum(dim=1) < wanted).sum(dim=1)
    return tuple((before + 1).tolist())


def ends_from_labels(labels: Tensor, cached: int) -> tuple[int, ...]:
    """The column behind each prompt: its first label that is not -100.

    A row without labels is all prompt.

    Args:
        labels: int64 [B, R], of the rows behind ``cached`` columns.

    Raises:
        PromptError: a row's labels are not one run.
    """
    answers = labels != _IGNORED
    before = torch.nn.functional.pad(answers, (1, 0))[:, :-1]
    starts = answers & ~before
    many = torch.where(starts.sum(dim=1) > 1)[0].tolist()
    if many:
        raise PromptError(
            f"The labels of row {many[0]} are in {int(starts[many[0]].sum())} pieces, and steering "
            "takes one prompt and one answer per row; score one answer at a time, or say where "
            "the prompt ends with prompt_lengths"
        )
    first = torch.where(answers.any(dim=1), answers.int().argmax(dim=1), labels.shape[1])
    return tuple((first + cached).tolist())
