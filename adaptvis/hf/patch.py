"""``patch``, ``unpatch`` and ``steer``: steering a transformers model in place."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from adaptvis.config import (
    AdaptVis,
    Amplify,
    NormRescale,
    ScalingVis,
    SteeringConfig,
)
from adaptvis.errors import AdaptVisWarning, ConfigError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.decisions import Decision, DecisionBatch
from adaptvis.hf.patched_model import PatchedModel
from adaptvis.presets import find_config, load_model_presets

__all__ = ["SteeringHandle", "handles_in_force", "patch", "steer", "unpatch"]

Configs = SteeringConfig | Sequence[SteeringConfig] | None
Named = Configs | str | Path


class SteeringHandle:
    """One ``patch`` of one model; ``remove`` undoes it.

    attention: the ScalingVis or AdaptVis in force, norms: the NormRescale, amplification: the
        Amplify with its directions; or None.
    is_off: configured with None: switches off the handles below it (``is_paused`` only skips this
        one). thread: the only thread that it steers, by identifier; None steers all.
    """

    def __init__(
        self, stack: _Stack, configs: Configs, processor: Any, thread: int | None = None
    ) -> None:
        self.attention, self.norms, amplify = _split(configs)
        self.amplification = None if amplify is None else stack.patched.amplification_of(amplify)
        self.processor = processor
        self.is_off = self.attention is None and self.norms is None and amplify is None
        self.thread = thread
        self._stack = stack
        self._local = threading.local()
        self._latest: DecisionBatch | None = None

    @property
    def last(self) -> list[Decision]:
        """What was decided for each prompt of the latest prefill; empty before the first.

        A thread sees its own latest prefill, or anybody's if it has not run one.
        """
        decisions = getattr(self._local, "decisions", self._latest)
        return [] if decisions is None else decisions.to_list()

    def record(self, decisions: DecisionBatch | None) -> None:
        """Keep the decisions of the latest prefill; None forgets them."""
        self._local.decisions = self._latest = decisions

    def remove(self) -> None:
        """Undo this patch; the model is as before. Does nothing the second time."""
        self._stack.remove(self)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run a block without this handle's steering, in this thread."""
        self._local.pauses = getattr(self._local, "pauses", 0) + 1
        try:
            yield
        finally:
            self._local.pauses -= 1

    @property
    def is_paused(self) -> bool:
        """Whether a ``paused`` block is open in this thread."""
        return getattr(self._local, "pauses", 0) > 0

    def __repr__(self) -> str:
        amplify = None if self.amplification is None else self.amplification.config
        configs = [c for c in (self.attention, self.norms, amplify) if c is not None]
        return f"SteeringHandle({', '.join(map(repr, configs)) or 'off'})"


class _Stack:
    """The handles on one model, the latest last, and the hooks that serve them."""

    def __init__(self, model: nn.Module) -> None:
        self.handles: list[SteeringHandle] = []
        self._model = weakref.ref(model)
        self.patched: PatchedModel = PatchedModel(
            model,
            partial(self.in_force, "attention"),
            partial(self.in_force, "norms"),
            partial(self.in_force, "amplification"),
        )

    def in_force(self, kind: str) -> SteeringHandle | None:
        mine = [h for h in self.handles if h.thread in (None, threading.get_ident())]
        if self.handles and not mine:
            warnings.warn(
                "This model is steered by a with-block of another thread only, so this call is "
                "not; use adaptvis.patch to steer all threads, or steer inside this one",
                AdaptVisWarning,
                stacklevel=2,
            )
        for handle in reversed(mine):
            if handle.is_paused:
                continue
            if handle.is_off:
                return None
            if getattr(handle, kind) is not None:
                return handle
        return None

    def remove(self, handle: SteeringHandle) -> None:
        with _LOCK:
            if handle not in self.handles:
                return
            if len(self.handles) == 1:
                self.patched.remove()
                model = self._model()
                if model is not None:
                    model.__dict__.pop(_ATTRIBUTE, None)
            # A new list: other threads may be walking the old one.
            self.handles = [other for other in self.handles if other is not handle]


_ATTRIBUTE = "_adaptvis_stack"
_LOCK = threading.RLock()


def patch(model: nn.Module, config: Named, *, processor: Any = None) -> SteeringHandle:
    """Steer ``model`` from now on, inside ordinary ``generate`` and forward calls.

    Patching a patched model stacks: the newest handle that names a method wins for that method,
    and removing it brings the older one back. ``config=None`` switches steering off on top. All
    threads that use the model are steered; see :func:`steer` for one thread only.

    Args:
        model: a ``...ForConditionalGeneration`` model of a known family; see
            :func:`adaptvis.hf.known_families`.
        config: one configuration, or a list of at most one attention method, one NormRescale and
            one Amplify (norms are rescaled first, whatever the order of the list); or the path of a
            configuration file (``FILE:NAME`` where it holds several), or the name of a preset,
            where those that lie beside the model's weights come first.
        processor: the model's processor; only needed for ``regions``, and for ``images`` of
            families that cut images into tiles.

    Raises:
        UnknownFamilyError: the model has no image tokens, or its family is not known, or it has no
            ``get_image_features`` to edit.
        ConfigError: layers or heads that the model does not have, two configurations of a kind, or
            directions that cannot be read or are of another width.
    """
    return _patch(model, config, processor, thread=None)


def _patch(model: nn.Module, config: Named, processor: Any, thread: int | None) -> SteeringHandle:
    target = _unwrapped(model)
    configs = _named(config, target)
    _split(configs)
    with _LOCK:
        stack: _Stack = target.__dict__.get(_ATTRIBUTE) or _Stack(target)
        try:
            handle = SteeringHandle(stack, configs, processor, thread)
            _check_against(stack.patched.decoder_config, handle.attention)
            if handle.norms is not None or handle.amplification is not None:
                stack.patched.require_features()
        except BaseException:
            if not stack.handles:
                stack.patched.remove()
            raise
        stack.handles = [*stack.handles, handle]
        target.__dict__[_ATTRIBUTE] = stack
    return handle


def unpatch(model: nn.Module) -> None:
    """Remove every handle from ``model``; it is exactly as before. No-op on an unpatched model."""
    with _LOCK:
        stack: _Stack | None = _unwrapped(model).__dict__.get(_ATTRIBUTE)
        while stack is not None and stack.handles:
            stack.remove(stack.handles[-1])


@contextmanager
def steer(model: nn.Module, config: Named, *, processor: Any = None) -> Iterator[SteeringHandle]:
    """Steer ``model`` inside a ``with`` block, in this thread only.

    Arguments and errors as for :func:`patch`.
    """
    handle = _patch(model, config, processor, thread=threading.get_ident())
    try:
        yield handle
    except BaseException:
        # The block's own error is the one to see.
        with suppress(UnsupportedError):
            handle.remove()
        raise
    handle.remove()


def handles_in_force(
    model: nn.Module,
) -> tuple[SteeringHandle | None, SteeringHandle | None, SteeringHandle | None]:
    """The handles whose attention method, NormRescale and Amplify steer this thread."""
    stack: _Stack | None = _unwrapped(model).__dict__.get(_ATTRIBUTE)
    if stack is None:
        return None, None, None
    return stack.in_force("attention"), stack.in_force("norms"), stack.in_force("amplification")


def _named(configs: Named, model: nn.Module) -> Configs:
    """The configuration that a name or a path means; anything else as it is."""
    if not isinstance(configs, str | Path):
        return configs
    source = str(getattr(model.config, "_name_or_path", ""))
    own = load_model_presets(source) if source and Path(source).is_dir() else None
    return find_config(str(configs), own)


def _split(
    configs: Configs,
) -> tuple[ScalingVis | AdaptVis | None, NormRescale | None, Amplify | None]:
    if configs is None:
        return None, None, None
    single = isinstance(configs, SteeringConfig)
    if not single and not isinstance(configs, list | tuple):
        raise ConfigError(_NOT_A_CONFIG.format(type(configs).__name__))
    if not configs:
        raise ConfigError("An empty list steers nothing; None switches steering off")
    items = [configs] if single else configs
    attention: list[ScalingVis | AdaptVis] = []
    norms: list[NormRescale] = []
    amplify: list[Amplify] = []
    for item in items:
        if isinstance(item, NormRescale):
            norms.append(item)
        elif isinstance(item, Amplify):
            amplify.append(item)
        elif isinstance(item, ScalingVis | AdaptVis):
            attention.append(item)
        else:
            raise ConfigError(_NOT_A_CONFIG.format(type(item).__name__))
    if len(attention) > 1 or len(norms) > 1 or len(amplify) > 1:
        raise ConfigError(
            "One patch takes at most one attention method, one NormRescale and one Amplify, got "
            f"{len(attention)}, {len(norms)} and {len(amplify)}"
        )
    return next(iter(attention), None), next(iter(norms), None), next(iter(amplify), None)


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
    model = base() if callable(base) else model
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnknownFamilyError(
            f"A {type(model).__name__} is not a transformers model; pass the "
            "...ForConditionalGeneration model itself (not DataParallel around it)"
        )
    return model


_NOT_A_CONFIG = (
    "Steering takes ScalingVis, AdaptVis, NormRescale or Amplify, got {}; "
    "adaptvis.config.parse_config builds one from a mapping"
)
