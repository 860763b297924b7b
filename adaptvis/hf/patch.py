"""``patch``, ``unpatch`` and ``steer``: steering a transformers model in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from adaptvis.config import AdaptVis, NormRescale, ScalingVis, SteeringConfig
from adaptvis.errors import ConfigError
from adaptvis.hf.decisions import Decision, DecisionBatch
from adaptvis.hf.patched_model import PatchedModel

__all__ = ["SteeringHandle", "patch", "steer", "unpatch"]

Configs = SteeringConfig | Sequence[SteeringConfig] | None


class SteeringHandle:
    """One ``patch`` of one model; ``remove`` undoes it.

    attention: the ScalingVis or AdaptVis in force, norms: the NormRescale, or None.
    """

    def __init__(self, stack: _Stack, configs: Configs, processor: Any) -> None:
        self.attention, self.norms = _split(configs)
        self.processor = processor
        self.is_off = self.attention is None and self.norms is None
        self._stack = stack
        self._paused = False
        self._decisions: DecisionBatch | None = None

    @property
    def last(self) -> list[Decision]:
        """What was decided for each prompt of the latest prefill; empty before the first."""
        return [] if self._decisions is None else self._decisions.to_list()

    def record(self, decisions: DecisionBatch) -> None:
        """Keep the decisions of the latest prefill."""
        self._decisions = decisions

    def remove(self) -> None:
        """Undo this patch; the model is as before. Does nothing the second time."""
        self._stack.remove(self)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run a block without this handle's steering."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @property
    def is_paused(self) -> bool:
        """Whether a ``paused`` block is open."""
        return self._paused

    def __repr__(self) -> str:
        configs = [config for config in (self.attention, self.norms) if config is not None]
        return f"SteeringHandle({', '.join(map(repr, configs)) or 'off'})"


class _Stack:
    """The handles on one model, the latest last, and the hooks that serve them."""

    def __init__(self, model: nn.Module) -> None:
        self.handles: list[SteeringHandle] = []
        self._model = weakref.ref(model)
        self.patched = PatchedModel(model, self._attention, self._norms)

    def _attention(self) -> SteeringHandle | None:
        return self._in_force("attention")

    def _norms(self) -> SteeringHandle | None:
        return self._in_force("norms")

    def _in_force(self, kind: str) -> SteeringHandle | None:
        for handle in reversed(self.handles):
            if handle.is_paused:
                continue
            if handle.is_off:
                return None
            if getattr(handle, kind) is not None:
                return handle
        return None

    def remove(self, handle: SteeringHandle) -> None:
        if handle not in self.handles:
            return
        if len(self.handles) == 1:
            self.patched.remove()
            model = self._model()
            if model is not None:
                _STACKS.pop(model, None)
        self.handles.remove(handle)


_STACKS: weakref.WeakKeyDictionary[nn.Module, _Stack] = weakref.WeakKeyDictionary()


def patch(model: nn.Module, config: Configs, *, processor: Any = None) -> SteeringHandle:
    """Steer ``model`` from now on, inside ordinary ``generate`` and forward calls.

    Patching a patched model stacks: the newest handle that names a method wins for that method,
    and removing it brings the older one back. ``config=None`` switches steering off on top.

    Args:
        model: a ``...ForConditionalGeneration`` model of a known family; see
            :func:`adaptvis.hf.known_families`.
        config: one configuration, or an attention method together with a NormRescale.
        processor: the model's processor; only needed for ``regions``, and for ``images`` of
            families that cut images into tiles.

    Raises:
        UnknownFamilyError: the model has no image tokens, or its family is not known.
        ConfigError: layers or heads that the model does not have, or two configurations of a kind.
    """
    target = _unwrapped(model)
    _split(config)
    stack = _STACKS.get(target)
    if stack is None:
        stack = _Stack(target)
    handle = SteeringHandle(stack, config, processor)
    try:
        _check_against(stack.patched.decoder_config, handle.attention)
    except ConfigError:
        if not stack.handles:
            stack.patched.remove()
        raise
    stack.handles.append(handle)
    _STACKS[target] = stack
    return handle


def unpatch(model: nn.Module) -> None:
    """Remove every handle from ``model``; it is exactly as before. No-op on an unpatched model."""
    stack = _STACKS.get(_unwrapped(model))
    while stack is not None and stack.handles:
        stack.remove(stack.handles[-1])


@contextmanager
def steer(model: nn.Module, config: Configs, *, processor: Any = None) -> Iterator[SteeringHandle]:
    """Steer ``model`` inside a ``with`` block; arguments and errors as for :func:`patch`."""
    handle = patch(model, config, processor=processor)
    try:
        yield handle
    finally:
        handle.remove()


def _split(configs: Configs) -> tuple[ScalingVis | AdaptVis | None, NormRescale | None]:
    if configs is None:
        return None, None
    items = [configs] if isinstance(configs, ScalingVis | AdaptVis | NormRescale) else configs
    attention: list[ScalingVis | AdaptVis] = []
    norms: list[NormRescale] = []
    for item in items:
        if isinstance(item, NormRescale):
            norms.append(item)
        elif isinstance(item, ScalingVis | AdaptVis):
            attention.append(item)
        else:
            raise ConfigError(
                f"Steering takes ScalingVis, AdaptVis or NormRescale, got {type(item).__name__}; "
                "adaptvis.config.parse_config builds one from a mapping"
            )
    if len(attention) > 1 or len(norms) > 1:
        raise ConfigError(
            "One patch takes at most one attention method and one NormRescale, got "
            f"{len(attention)} and {len(norms)}"
        )
    return next(iter(attention), None), next(iter(norms), None)


def _check_against(decoder_config: Any, steering: ScalingVis | AdaptVis | None) -> None:
    if steering is None:
        return
    for kind, chosen, count in (
        ("layers", steering.layers, decoder_config.num_hidden_layers),
        ("heads", steering.heads, decoder_config.num_attention_heads),
    ):
        if chosen and chosen[-1] >= count:
            raise ConfigError(
                f"{kind} names {chosen[-1]}, but this model has {count}, counted from 0; choose "
                f"from 0 to {count - 1}"
            )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model behind torch.compile or a peft adapter."""
    model = getattr(model, "_orig_mod", model)
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model
