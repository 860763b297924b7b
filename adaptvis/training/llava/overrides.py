"""`--set stages.0.learning_rate=1e-3`: any field of a recipe, from the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from adaptvis.errors import ConfigError, unknown_name
from adaptvis.training.llava.recipe import Recipe, recipe_from
from adaptvis.unique_keys import yaml_value

__all__ = ["override"]


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `path=value` settings applied; values are YAML, list places are numbers.

    A stage is named by its place or by its name: `stages.stage-1.steps=100`.

    Raises:
        ConfigError: a path or value that no recipe has.
    """
    values = recipe.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set takes path=value such as lora.rank=64, got {setting!r}")
        try:
            value = yaml_value(text)
        except yaml.YAMLError:
            raise ConfigError(f"The value of --set {setting!r} is not valid YAML") from None
        _put(values, path.split("."), _number(value), setting)
    return recipe_from(values, "The recipe after --set")


class _New(dict[str, Any]):
    """A part that was off, such as lora; the recipe's own check names what is wrong in it."""


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, without a dot, as text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _put(values: Any, steps: list[str], value: Any, setting: str) -> None:
    for step in steps[:-1]:
        place = _place(values, step, setting)
        if values[place] is None:
            values[place] = _New()
        values = values[place]
    values[_place(values, steps[-1], setting)] = value


def _place(values: Any, step: str, setting: str) -> Any:
    if isinstance(values, list):
        named = {item["name"]: i for i, item in enumerate(values) if isinstance(item, dict)}
        if step in named:
            return named[step]
        if step.isdigit() and int(step) < len(values):
            return int(step)
        known = sorted(named) or [str(i) for i in range(len(values))]
        raise ConfigError(f"--set {setting!r}: " + unknown_name("entry", step, known))
    if not isinstance(values, dict):
        raise ConfigError(f"--set {setting!r}: there is nothing below {step!r} to set")
    if not isinstance(values, _New) and step not in values:
        raise ConfigError(f"--set {setting!r}: " + unknown_name("field", step, values))
    return step
