"""Replacing a method of one module instance, and undoing it without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from adaptvis.errors import UnsupportedError

__all__ = ["MethodHook"]


class MethodHook:
    """``module.name`` goes through ``wrapper(original, *args, **kwargs)`` until removed.

    The instance is patched, never the class, and the signature stays visible: ``generate``
    validates arguments against it.
    """

    def __init__(self, module: nn.Module, name: str, wrapper: Callable[..., Any]) -> None:
        self._module = module
        self._name = name
        self._had_attribute = name in module.__dict__
        original = getattr(module, name)
        self._original = original
        replacement = _Replacement(original, wrapper)
        self._replacement = replacement
        module.__dict__[name] = replacement

    @property
    def original(self) -> Callable[..., Any]:
        """The method as it was."""
        return self._original

    def check_removable(self) -> None:
        """Raises UnsupportedError if somebody else has wrapped the method since."""
        if self._module.__dict__.get(self._name) is not self._replacement:
            raise UnsupportedError(
                f"{type(self._module).__name__}.{self._name} was wrapped again after adaptvis "
                "patched it; undo the later change first"
            )

    def remove(self) -> None:
        """Put the method back."""
        self.check_removable()
        if self._had_attribute:
            self._module.__dict__[self._name] = self._original
        else:
            del self._module.__dict__[self._name]


class _Replacement:
    def __init__(self, original: Callable[..., Any], wrapper: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._call = torch.compiler.disable(
            functools.partial(wrapper, original), recursive=False, reason=_FULLGRAPH
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise UnsupportedError(_COPY)

    def __reduce__(self) -> Any:
        raise UnsupportedError(_COPY)


_FULLGRAPH = (
    "adaptvis steers between the graphs of a compiled model; compile it without fullgraph=True, or "
    "call adaptvis.unpatch(model) first"
)

_COPY = (
    "A patched model cannot be copied or pickled, because the copy would still steer the original; "
    "call adaptvis.unpatch(model) first"
)
