"""From what was typed after `--method` and `--preset` to named steering configurations."""

from collections.abc import Mapping, Sequence
from typing import Any

from adaptvis.cli.console import note
from adaptvis.cli.models import Model
from adaptvis.config import SteeringConfig, load_config, parse_config
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.evaluation import Method
from adaptvis.presets import (
    PRESETS,
    file_of,
    find_config,
    load_model_presets,
    rule_of_the_code,
)

__all__ = ["BUILT_IN", "methods_for"]

BUILT_IN = ("baseline", "scalingvis", "adaptvis")
_PUBLISHED = "controlled_a"


def methods_for(model: Model, methods: Sequence[str], presets: Sequence[str]) -> tuple[Method, ...]:
    """The methods to run on a model; its own presets come before the published ones.

    Without any, all built-in methods, and ScalingVis on other rows where the model has a setting
    for it; with presets only, the baseline and those.

    Raises:
        ConfigError: an unknown name, or a configuration that is not valid.
    """
    own = load_model_presets(model.folder) if model.folder else {}
    if not methods and not presets:
        presets = [name for name in own if name.startswith("scalingvis-")]
        methods = BUILT_IN
    elif not methods:
        methods = ("baseline",)
    found = [_method(text, model, own) for text in methods]
    for text in presets:
        config = find_config(text, own)
        if text not in own and (departs := rule_of_the_code(text)):
            note(departs)
        found.append(Method(_label(config) if "{" in text else _name_of(text), config))
    return tuple(found)


def _method(text: str, model: Model, own: Mapping[str, SteeringConfig]) -> Method:
    if text == "baseline":
        return Method("baseline")
    if text in BUILT_IN:
        if text not in own:
            published = f"{text}-{_PUBLISHED}"
            note(
                f"{model.name} has no tuned setting for {text}; using {published}, published for "
                "LLaVA-1.5 (adaptvis tune finds one for this model)"
            )
            return Method(text, PRESETS[published])
        return Method(text, own[text])
    if text.lstrip().startswith("{"):
        config = parse_config(text)
        return Method(_label(config), config)
    if (file := file_of(text)) is not None:
        return Method(_name_of(text), load_config(*file))
    hint = "(or give a JSON configuration, or the path of a .json or .yaml file)"
    raise ConfigError(unknown_name("method", text, BUILT_IN, hint))


def _name_of(preset: str) -> str:
    """The preset's name; of a file without one, the file's."""
    file = file_of(preset)
    return preset if file is None else file[1] or file[0].stem


def _label(config: SteeringConfig) -> str:
    """The method with the parameters that were given, for example `scalingvis alpha=1.2`."""
    # A file's content has no place in a name.
    given = config.model_dump(mode="json", exclude_defaults=True, exclude={"sha256"})
    return " ".join([config.method, *(f"{k}={_short(v)}" for k, v in given.items())])


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value}"
