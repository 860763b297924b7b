"""One sample of a LLaVA file, checked: turns of text, images moved to the front of their turn."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from adaptvis.errors import DataError

__all__ = ["IMAGE", "Conversation", "Turn", "parse_conversation", "place_of"]

IMAGE = "<image>"
"""LLaVA's placeholder, whatever the tokenizer's own is called."""

_ROLES: dict[str, Literal["user", "assistant"]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_PLACEHOLDER = re.compile(re.escape(IMAGE))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; `images` pictures come before the text."""

    role: Literal["user", "assistant"]
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that alternate, user first and assistant last, and the names of their images."""

    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()


def place_of(file: object, index: int, sample: Any) -> str:
    """How messages name a sample: file, 0-based index and id."""
    identity = (
        f" (id {str(sample['id'])!r:.80})" if isinstance(sample, dict) and "id" in sample else ""
    )
    return f"{file}, sample {index}{identity}"


def parse_conversation(sample: Any, where: str) -> Conversation:
    """The conversation of one sample.

    As LLaVA does, an opening turn of the assistant is left out, and `<image>` is moved to the front
    of its turn. A closing question without an answer is left out too: there is nothing to learn.

    Raises:
        DataError: the sample is malformed, or does not have one image per placeholder.
    """
    if not isinstance(sample, dict):
        raise DataError(f"{where}: a JSON object is expected, got {type(sample).__name__}")
    images = _images(sample, where)
    turns = _turns(sample, where)
    placeholders = sum(turn.images for turn in turns)
    if placeholders != len(images):
        comparison = "more" if placeholders > len(images) else "fewer"
        raise DataError(
            f"{where}: {comparison} image placeholders than images ({placeholders} {IMAGE} in the "
            f"human turns, {len(images)} in 'image'); write one {IMAGE} per image"
        )
    return Conversation(turns, images)


def _images(sample: dict[str, Any], where: str) -> tuple[str, ...]:
    named = sample.get("image")
    if named is None:
        return ()
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(
            f"{where}: 'image' must be a file name or a list of them, got {named!r:.80}"
        )
    return tuple(names)


def _turns(sample: dict[str, Any], where: str) -> tuple[Turn, ...]:
    stored = sample.get("conversations")
    if not isinstance(stored, list):
        found = type(stored).__name__ if "conversations" in sample else "nothing"
        raise DataError(f"{where}: 'conversations' must be a list of turns, got {found}")
    turns = [_turn(entry, number, where) for number, entry in enumerate(stored)]
    for number, (before, after) in enumerate(pairwise(turns), start=1):
        if before.role == after.role:
            raise DataError(
                f"{where}: turns {number - 1} and {number} are both of the {after.role}; human and "
                "gpt must alternate"
            )
    if turns and turns[0].role == "assistant":
        turns = turns[1:]
    if turns and turns[-1].role == "user":
        turns = turns[:-1]
    if not turns:
        raise DataError(
            f"{where}: the conversation is empty: a human turn and an answer are needed"
        )
    return tuple(turns)


def _turn(entry: Any, number: int, where: str) -> Turn:
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
        raise DataError(
            f"{where}: turn {number} must be an object with 'from' and a text 'value', "
            f"got {entry!r:.80}"
        )
    speaker, text = entry.get("from"), entry["value"]
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(
            f"{where}: turn {number} is from {speaker!r:.40}; the known roles are human and gpt"
        )
    images = len(_PLACEHOLDER.findall(text))
    if not images:
        return Turn(role, text)
    if role == "assistant":
        raise DataError(
            f"{where}: turn {number} is an answer and holds {IMAGE}; only questions may"
        )
    return Turn(role, text.replace(IMAGE, "").strip(), images)
