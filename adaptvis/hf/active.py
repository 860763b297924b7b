"""What is in force on a patched model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from adaptvis.config import SteeringConfig
from adaptvis.errors import AdaptVisWarning
from adaptvis.hf.patch import handles_in_force, steer

__all__ = [
    "active_steering",
    "method_names",
    "steered_on_top",
    "steering_record",
    "steering_under",
    "without_steering",
]


def active_steering(model: nn.Module) -> tuple[SteeringConfig, ...]:
    """The configurations that steer ``model`` where this is called; empty where nothing does.

    At most one attention method, one NormRescale and one Amplify, in this order: of each the
    newest handle that is not paused.
    """
    found: list[SteeringConfig] = []
    attention, norms, amplification = handles_in_force(model)
    if attention is not None and attention.attention is not None:
        found.append(attention.attention)
    if norms is not None and norms.norms is not None:
        found.append(norms.norms)
    if amplification is not None and amplification.amplification is not None:
        found.append(amplification.amplification.config)
    return tuple(found)


def steering_under(model: nn.Module, config: SteeringConfig | None) -> tuple[SteeringConfig, ...]:
    """What would steer ``model`` with ``config`` on top of what it is patched with."""
    if config is None:
        return active_steering(model)
    with steer(model, config):
        return active_steering(model)


@contextmanager
def steered_on_top(
    model: nn.Module, config: SteeringConfig | None, processor: Any
) -> Iterator[tuple[SteeringConfig, ...]]:
    """Run a block with ``config`` on top of what the model is patched with; gives what is in force.

    A prompt that cannot be steered is looked at as it is, without a warning.
    """
    on_top = nullcontext() if config is None else steer(model, config, processor=processor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptVisWarning)
        with on_top:
            yield active_steering(model)


def method_names(configs: Sequence[SteeringConfig]) -> str:
    """Their methods in a few words, for example ``scalingvis + amplify``."""
    return " + ".join(config.method for config in configs)


def steering_record(configs: Sequence[SteeringConfig]) -> Any:
    """Configurations as plain JSON values, for ``settings["steering"]`` of a result.

    Returns:
        None for none, a mapping for one, a list of mappings for several.
    """
    records = [config.to_dict() for config in configs]
    return records if len(records) > 1 else next(iter(records), None)


@contextmanager
def without_steering(model: nn.Module) -> Iterator[None]:
    """Run a block with every handle on ``model`` switched off."""
    if not active_steering(model):
        yield
        return
    with steer(model, None):
        yield
