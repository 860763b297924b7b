"""What differs between versions of vLLM, each in the module of the first version that had it so."""

from __future__ import annotations

from functools import lru_cache

from adaptvis.vllm.known_versions import verdict
from adaptvis.vllm.versions.v0_26 import V0_26
from adaptvis.vllm.versions.v0_30 import V0_30
from adaptvis.vllm.versions.v0_31 import V0_31
from adaptvis.vllm.versions.v0_32 import V0_32, Library

__all__ = ["Library", "library", "library_of"]

# The newest first.
_RANGES: tuple[tuple[tuple[int, int], type[Library]], ...] = (
    ((0, 32), V0_32),
    ((0, 31), V0_31),
    ((0, 30), V0_30),
    ((0, 26), V0_26),
)


@lru_cache(maxsize=1)
def library() -> Library:
    """The installed vLLM, taken for the known version that it is nearest to."""
    return library_of(verdict().like)


def library_of(version: str) -> Library:
    """A known version of vLLM."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return next(kind for first, kind in _RANGES if (major, minor) >= first)()
