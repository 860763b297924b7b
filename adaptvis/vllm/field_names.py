"""Fields that were meant for steering and are named wrongly, or stand where nothing reads them.

vLLM passes over what it does not know, so that such a request would be answered, unsteered, without
a word. What only looks a little like ours belongs to others and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import ConfigError

__all__ = [
    "FIELD",
    "FIELDS",
    "PREFIX",
    "buried",
    "check_places",
    "may_hold_fields",
    "meant",
    "misnamed",
]

FIELD = "adaptvis"
PREFIX = "adaptvis_"
FIELDS = frozenset(ScalingVis.model_fields) | frozenset(AdaptVis.model_fields)

# Nobody else's, also without the prefix. The other fields are so only in their company.
_COEFFICIENTS = frozenset({"alpha", "alpha_low", "alpha_high"})
_SQUEEZED = {field.replace("_", ""): field for field in FIELDS}
_SEPARATORS = re.compile(r"[\W_]+")
_METHODS = ("adaptvis", "scalingvis")
# One wrong letter; with one of our fields behind it two. "scaling" alone is a word.
_NEAR = {"adaptvis": 0.8, "scalingvis": 0.9}
_NEAR_BEFORE_A_FIELD = {"adaptvis": 0.7, "scalingvis": 0.9}
_OTHER_WORDS = ("adaptive", "adapter")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Where clients put what their library should have unpacked, or another interface would read.
_WRAPPERS = ("extra_body", "extra_args", "vllm_xargs", "sampling_params")
# Their keys are the client's own.
_FREE = frozenset(
    {"metadata", "tools", "functions", "response_format", "structured_outputs", "text"}
)
_DEEPEST = 16
# A key of JSON as long as ours may be, wherever it stands. Pictures have no quotation marks.
_KEY = re.compile(rb'"([^"\\]{4,40})"\s*:')


def misnamed(fields: Iterable[Any], *, bare: bool = True) -> list[str]:
    """Those of some names that can only be meant as ours, and are not.

    Args:
        fields: names, or a mapping, whose ``method`` is ours where its value is one of ours.
        bare: whether a coefficient without the prefix is meant, too.
    """
    names = {name for name in fields if isinstance(name, str)}
    right = {name for name in names if name == FIELD or name.startswith(PREFIX)}
    near = {name for name in names - right if _read(name) is not None}
    coefficients = {name for name in names if _bare(name) in _COEFFICIENTS} if bare else set()
    if bare and isinstance(fields, Mapping) and _names_a_method(fields.get("method")):
        coefficients.add("method")
    company = names & FIELDS if right | near | coefficients else set()
    return sorted(near | coefficients | company)


def meant(name: str) -> str:
    """The right name for a wrong one."""
    if name in FIELDS or name == FIELD or name.startswith(PREFIX):
        return name if name not in FIELDS else PREFIX + name
    if field := _bare(name):
        return PREFIX + field
    method, tail = _read(name) or (FIELD, "")
    if not tail:
        return FIELD if method == FIELD else f"{PREFIX}method"
    nearest = max(sorted(_SQUEEZED), key=lambda field: _likeness(tail, field))
    return PREFIX + _SQUEEZED[nearest]


def check_places(body: Mapping[str, Any], right: str = "vllm_xargs", *, bare: bool = True) -> None:
    """Refuse fields of ours in a request's body anywhere but in ``right``.

    Args:
        right: the object of the body that is read; with a dot for one inside another.

    Raises:
        ConfigError: names the fields, where they were found and where they belong.
    """
    for place, given in _objects(body, "", 0):
        if place == right:
            continue
        # Further down, a coefficient without the prefix may be anything.
        wrapper = not place or place.rpartition(".")[2] in _WRAPPERS
        names = [name for name in given if isinstance(name, str)]
        ours = {name for name in names if name.startswith(PREFIX) or name == FIELD}
        ours.update(misnamed(given, bare=bare and wrapper))
        if not ours:
            continue
        found = ", ".join(repr(name) for name in sorted(ours))
        fields = ", ".join(f'"{meant(name)}": ...' for name in sorted(ours))
        where = f"in {place}" if place else "at the top level of the request"
        outer, _, inner = right.rpartition(".")
        example = f'"{inner}": {{{fields}}}'
        example = f'"{outer}": {{{example}}}' if outer else example
        raise ConfigError(
            f"{found} {where} would steer nothing; it belongs into {right} of the request's body, "
            f"at its top level: {{{example}}}"
        )


def buried(fields: Mapping[str, Any]) -> str | None:
    """Where an object inside some fields holds names of ours, which nothing reads there."""
    for place, given in _objects(fields, "", 0):
        ours = any(str(name) == FIELD or str(name).startswith(PREFIX) for name in given)
        if place and (ours or misnamed(given, bare=False)):
            return place
    return None


def may_hold_fields(body: bytes) -> bool:
    """Whether a request's JSON has a key that :func:`check_places` could object to, or ours."""
    keys = {key.decode("utf-8", "replace") for key in _KEY.findall(body)}
    return bool(keys & {"vllm_xargs", "extra_args", "method"}) or any(
        _bare(key) in _COEFFICIENTS or _read(key) is not None for key in keys
    )


def _bare(name: str) -> str | None:
    """The field that a name without the prefix spells, in any case and with any separators."""
    return _SQUEEZED.get(_SEPARATORS.sub("", name).lower())


def _names_a_method(value: Any) -> bool:
    return isinstance(value, str) and _SEPARATORS.sub("", value).lower() in _METHODS


def _objects(value: Any, place: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a body, without those whose keys are the client's own."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(item, f"{place}[{index}]", depth + 1)
    elif isinstance(value, Mapping):
        yield place, value
        for name, inner in value.items():
            if name not in _FREE:
                yield from _objects(inner, f"{place}.{name}" if place else str(name), depth + 1)


@lru_cache(maxsize=4096)
def _read(name: str) -> tuple[str, str] | None:
    """The method that a name means and the field behind it; None if it means none of ours."""
    words = [word.lower() for word in _WORDS.findall(name)]
    found = []
    for start in range(len(words)):
        # "adapt-vis" is two words, and "adaptvisalpha" one.
        for stop in range(start + 1, min(start + 3, len(words) + 1)):
            head, tail = "".join(words[start:stop]), "".join(words[stop:])
            if stop == len(words):
                head, tail = _without_field(head)
            for method in _METHODS:
                score = _likeness(head, method)
                enough = _NEAR_BEFORE_A_FIELD if tail in _SQUEEZED else _NEAR
                if score >= enough[method] and _is_spelling(head, method):
                    found.append((score, method, tail))
    return max(found)[1:] if found else None


def _without_field(word: str) -> tuple[str, str]:
    for field in sorted(_SQUEEZED, key=len, reverse=True):
        if word.endswith(field) and len(word) >= len(field) + len(FIELD) - 1:
            return word.removesuffix(field), field
    return word, ""


def _is_spelling(head: str, method: str) -> bool:
    """Not another word, such as adaptive, adapters or a vision of any kind."""
    vis = head.endswith(("vis", "viz"))
    return vis or (abs(len(head) - len(method)) <= 1 and not head.startswith(_OTHER_WORDS))


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
