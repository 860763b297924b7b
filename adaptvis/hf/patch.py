"""``patch``, ``unpatch`` and ``steer``: steering a transformers model in place."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator, suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import AdaptVisWarning, ConfigError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.blocks import Block
from adaptvis.hf.families import family_for
from adaptvis.hf.handles import LOCK, Configs, Stack, SteeringHandle, split_configs
from adaptvis.hf.prompt_ends import PromptLengths
from adaptvis.hf.self_check import require_working
from adaptvis.presets import find_config, load_model_presets

__all__ = ["SteeringHandle", "handles_in_force", "patch", "steer", "unpatch"]

Named = Configs | str | Path


def patch(
    model: nn.Module,
    config: Named,
    *,
    processor: Any = None,
    prompt_lengths: PromptLengths | None = None,
) -> SteeringHandle:
    """Steer ``model`` from now on, inside ordinary ``generate`` and forward calls.

    Patching a patched model stacks: the newest handle that names a method wins for that method,
    and removing it brings the older one back. ``config=None`` switches steering off on top. Every
    thread and task that uses the model is steered; see :func:`steer` for one of them only.

    Args:
        model: a ``...ForConditionalGeneration`` model of a known family; see
            :func:`adaptvis.hf.known_families`.
        config: one configuration, or a list of at most one attention method, one NormRescale and
            one Amplify (norms are rescaled first, whatever the order of the list); or the path of a
            configuration file (``FILE:NAME`` where it holds several), or the name of a preset,
            where those that lie beside the model's weights come first.
        processor: the model's processor; only needed for ``regions``, and for ``images`` of
            families that cut images into tiles or crops.
        prompt_lengths: where prompts end in calls that hold answers too; see
            :meth:`SteeringHandle.scoring`, which says it for a block.

    Raises:
        UnknownFamilyError: the model has no image tokens, or its family is not known, or it has no
            ``get_image_features`` to edit.
        ConfigError: layers or heads that the model does not have, two configurations of a kind, or
            directions that cannot be read or are of another width.
    """
    return _patch(model, config, processor, prompt_lengths)


def _patch(
    model: nn.Module,
    config: Named,
    processor: Any,
    prompt_lengths: PromptLengths | None,
    block: Block | None = None,
) -> SteeringHandle:
    target = _unwrapped(model)
    configs = _named(config, target)
    split_configs(configs)
    with LOCK:
        stack = Stack.of(target)
        if stack is None:
            require_working(family_for(target.config).model_type, steer)
            stack = Stack(target)
        try:
            handle = SteeringHandle(stack, configs, processor, prompt_lengths, block)
            _check_against(stack.patched.decoder_config, handle.attention)
            if handle.norms is not None or handle.amplification is not None:
                stack.patched.require_features()
        except BaseException:
            if not stack.handles:
                stack.patched.remove()
            raise
        if hasattr(model, "active_peft_config"):
            stack.patched.calls.prefix_columns = partial(_prefix_columns, weakref.ref(model))
            stack.patched.wrapper = weakref.ref(model)
        stack.handles = [*stack.handles, handle]
        stack.attach(target)
    return handle


def unpatch(model: nn.Module) -> None:
    """Remove every handle from ``model``; it is exactly as before. No-op on an unpatched model."""
    with LOCK:
        stack = Stack.of(_unwrapped(model))
        while stack is not None and stack.handles:
            stack.remove(stack.handles[-1])


def steer(
    model: nn.Module,
    config: Named,
    *,
    processor: Any = None,
    prompt_lengths: PromptLengths | None = None,
) -> AbstractContextManager[SteeringHandle]:
    """Steer ``model`` inside a ``with`` block only: whatever the block's code calls.

    Threads, asyncio tasks and generators each have their own blocks. Inside are also tasks that
    the block starts, ``asyncio.to_thread``, and every step of a generator that holds the block,
    wherever a server runs it; outside is the code between a generator's steps. A plain
    ``threading.Thread`` or executor begins outside and is told so by a warning: start it with
    ``Thread(target=contextvars.copy_context().run, args=(...))``, or use :func:`patch`.

    Arguments and errors as for :func:`patch`, when the block is entered.
    """
    return _SteerBlock(model, config, processor, prompt_lengths)


class _SteerBlock(ContextDecorator):
    def __init__(
        self, model: nn.Module, config: Named, processor: Any, lengths: PromptLengths | None
    ) -> None:
        self._arguments = (model, config, processor, lengths)
        self._handle: SteeringHandle | None = None
        self._is_used = False

    def __del__(self) -> None:
        if not self._is_used:
            warnings.warn(
                "adaptvis.steer was called and its block never entered, so nothing was steered; "
                "write `with adaptvis.steer(...):`, or call adaptvis.patch",
                AdaptVisWarning,
                stacklevel=2,
            )

    def _recreate_cm(self) -> _SteerBlock:
        return _SteerBlock(*self._arguments)

    def __call__(self, function: Any) -> Any:
        self._is_used = True
        kinds: tuple[Callable[[Any], bool], ...] = (
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        )
        if any(kind(function) for kind in kinds):
            raise ConfigError(
                f"{function.__name__} runs after the call that a decorator would steer has "
                "returned; write `with adaptvis.steer(...):` inside it"
            )
        return super().__call__(function)

    def __enter__(self) -> SteeringHandle:
        if self._handle is not None:
            raise ConfigError("This block has been entered before; call adaptvis.steer once more")
        self._is_used = True
        block = Block(__name__)
        try:
            self._handle = _patch(*self._arguments, block)
        except BaseException:
            block.close()
            raise
        return self._handle

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        handle = self._handle
        if handle is None or handle.block is None:
            return
        handle.block.close()
        # The block's own error is the one to see.
        with suppress(*([] if error is None else [UnsupportedError])):
            handle.remove()


def handles_in_force(
    model: nn.Module,
) -> tuple[SteeringHandle | None, SteeringHandle | None, SteeringHandle | None]:
    """The handles whose attention method, NormRescale and Amplify steer the running code."""
    stack = Stack.of(_unwrapped(model))
    if stack is None:
        return None, None, None
    attention, norms, amplification = (
        stack.in_force(kind, warn=False) for kind in ("attention", "norms", "amplification")
    )
    return attention, norms, amplification


def _named(configs: Named, model: nn.Module) -> Configs:
    """The configuration that a name or a path means; anything else as it is."""
    if not isinstance(configs, str | Path):
        return configs
    source = str(getattr(model.config, "_name_or_path", ""))
    own = load_model_presets(source) if source and Path(source).is_dir() else None
    return find_config(str(configs), own)


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


def _prefix_columns(wrapper: weakref.ref[Any]) -> int:
    """Columns that the active adapter of a PEFT model puts in front of every forward call's."""
    model = wrapper()
    config: Any = None if model is None else model.active_peft_config
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0
