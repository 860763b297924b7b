"""The user's words and the system prompt among the tokens of a prompt from a chat template."""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from adaptvis.engine import Query
from adaptvis.model_inputs import prompt_text

__all__ = ["template_parts", "text_spans"]

_MARK = "adaptvismark"
"""Stands in for the user's words; a template leaves one plain word alone."""

Span = tuple[int, int]


def template_parts(
    processor: Any, query: Query, ids: list[int], placeholder: int
) -> tuple[list[bool], list[bool]] | None:
    """Which tokens are the system prompt, [N], and which the user's words, [N]; None: not known.

    The rendered text is tokenized as it is; its tokens are then found among ``ids``, where every
    image has become many tokens and marks. Not known where the template changes the user's words
    or the tokenizer tells no characters.
    """
    tokenizer = processor.tokenizer
    spans = text_spans(processor, query)
    if spans is None or not getattr(tokenizer, "is_fast", False):
        return None
    rendered, (start, stop), system_end = spans
    encoded = tokenizer(rendered, return_offsets_mapping=True)
    known, offsets = encoded["input_ids"], encoded["offset_mapping"]
    places = [i for i, token in enumerate(ids) if token != placeholder]
    own = [i for i, token in enumerate(known) if token != placeholder]
    matched = SequenceMatcher(
        None, [known[i] for i in own], [ids[i] for i in places], autojunk=False
    ).get_matching_blocks()
    place_of = {
        own[block.a + i]: places[block.b + i] for block in matched for i in range(block.size)
    }
    system, text = [False] * len(ids), [False] * len(ids)
    for i in own:
        left, right = offsets[i]
        users = left < stop and right > start and bool(rendered[left:right].strip())
        if users and i not in place_of:
            return None
        if i in place_of:
            text[place_of[i]] = users
            # Tokens that stand for no character, the beginning of sequence, start at 0.
            system[place_of[i]] = not users and right <= system_end and left <= right
    for i, token in enumerate(ids):
        if token == tokenizer.bos_token_id and not text[i]:
            system[i] = True
    return (system, text) if any(text) else None


def text_spans(processor: Any, query: Query) -> tuple[str, Span, int] | None:
    """The rendered prompt, where the user's words stand in it, and where its system part ends.

    The user's turn begins with what a later turn of the user begins with, too; what stands before
    that is the system part. None where the template does more than put the words in their place.
    """
    rendered = prompt_text(processor, query, "")
    before, mark, behind = prompt_text(processor, replace(query, prompt=_MARK), "").partition(_MARK)
    start, stop = len(before), len(rendered) - len(behind)
    if not mark or not rendered.startswith(before) or not rendered.endswith(behind):
        return None
    if rendered[start:stop].strip() != query.prompt.strip():
        return None
    return rendered, (start, stop), len(before) - len(_header(processor, query, before))


def _header(processor: Any, query: Query, before: str) -> str:
    """How the user's turn begins, images included: what a second turn shares with the first."""
    content = [*({"type": "image"} for _ in query.images), {"type": "text", "text": _MARK}]
    answer = [{"type": "text", "text": "answered"}]
    user, assistant = {"role": "user", "content": content}, {"role": "assistant", "content": answer}
    try:
        text = processor.apply_chat_template([user, assistant, user], tokenize=False)
    except Exception:
        # Templates raise what they like at a second turn: then all before the words is header.
        return before
    second = str(text).rpartition(_MARK)[0].rpartition("answered")[2]
    shared = 0
    for one, other in zip(reversed(before), reversed(second), strict=False):
        if one != other:
            break
        shared += 1
    return before[len(before) - shared :]
