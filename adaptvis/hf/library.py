"""What differs between versions of transformers, asked of the library itself where it can be."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import transformers

from adaptvis.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

__all__ = [
    "TESTED",
    "VERSION",
    "cache_argument",
    "cache_of",
    "decoding_fault",
    "image_defaults",
    "is_tested",
    "missing_name",
    "soft_prompt_fault",
]

VERSION: str = transformers.__version__
# Series that the tests have run on.
TESTED = ("5.17", "5.18", "5.19", "5.20", "5.21", "5.22", "5.23", "5.24")

# The newest name first.
_CACHE_NAMES = ("cache", "past_key_values")


def is_tested(version: str = VERSION) -> bool:
    """Whether a transformers is a release of a series that the tests have run on."""
    released = re.fullmatch(r"(\d+\.\d+)(\.\d+)*", version)
    return released is not None and released[1] in TESTED


def missing_name(problem: ImportError) -> UnsupportedError | None:
    """What to raise for an import that failed because this transformers lacks a name.

    None where the import failed for another reason.
    """
    if (problem.name or "").split(".")[0] != "transformers":
        return None
    return UnsupportedError(
        f"transformers {VERSION} lacks what adaptvis needs ({problem.msg}); install one of "
        f"{', '.join(TESTED)}"
    )


def cache_argument(parameters: Collection[str]) -> str:
    """The name under which a forward with these parameters takes its key-value cache.

    Raises:
        UnsupportedError: under none that is known.
    """
    for name in _CACHE_NAMES:
        if name in parameters:
            return name
    raise UnsupportedError(
        f"adaptvis finds no key-value cache among the arguments of this model's text decoder "
        f"({', '.join(parameters)}); expected {' or '.join(_CACHE_NAMES)}, as transformers "
        f"{TESTED[0]} to {TESTED[-1]} call it"
    )


def cache_of(named: Any) -> Cache | None:
    """The key-value cache among the arguments of a call, or in what a forward returns.

    Raises:
        UnsupportedError: there are two, of which the library drops one.
    """
    # An output that is asked for the older name, even whether it has it, warns.
    names = set(named.keys())
    given = [named[name] for name in _CACHE_NAMES if name in names]
    found = [cache for cache in given if cache is not None]
    if len(found) > 1 and found[0] is not found[1]:
        raise UnsupportedError(
            f"This call has two key-value caches, {' and '.join(_CACHE_NAMES)}, and transformers "
            f"{VERSION} drops the second; give one"
        )
    return found[0] if found else None


def decoding_fault(model: Any) -> str:
    """Why this model's own ``generate`` is wrong from the second new token on; empty if it is not.

    PaliGemma before transformers 5.18: generated tokens are taken for the prompt's bidirectional
    prefix, so that earlier ones see later ones.
    """
    if model.config.model_type != "paligemma":
        return ""
    name = "_update_model_kwargs_for_generation"
    if getattr(type(model), name) is not getattr(transformers.GenerationMixin, name):
        return ""
    return (
        f"transformers {VERSION} decodes PaliGemma wrongly from the second new "
        "token on, steered or not; install 5.18 or later, or ask for one token (max_new_tokens=1)"
    )


def soft_prompt_fault(model: Any, cache_name: str) -> str:
    """Why ``generate`` of this PEFT model loses its soft prompt; empty if it does not.

    PEFT that knows only the older name of the cache takes every new token for a prompt's start.
    """
    if not getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return ""
    source = inspect.getsource(type(model).prepare_inputs_for_generation)
    if f'"{cache_name}"' in source or f"'{cache_name}'" in source:
        return ""
    return (
        f"This PEFT hands no soft prompt to generate of transformers {VERSION}, which calls the "
        f"key-value cache {cache_name}, steered or not; install transformers below 5.24, or a PEFT "
        "that knows the name"
    )


def image_defaults(processor: Any) -> Mapping[str, Any]:
    """What a processor passes to its image processor where a call says nothing."""
    kwargs_class = getattr(processor, "valid_processor_kwargs", None)
    inherited = getattr(kwargs_class, "_defaults", {}).get("images_kwargs", {})
    # From 5.23 on they are attributes of the processor's class.
    own = getattr(processor, "images_kwargs", None)
    return {**(own if isinstance(own, Mapping) else {}), **inherited}
