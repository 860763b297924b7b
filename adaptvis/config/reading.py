"""From a mapping, JSON or YAML to a steering configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adaptvis.config.attention import AdaptVis, ScalingVis
from adaptvis.config.image_tokens import Amplify, NormRescale
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.unique_keys import json_value, yaml_value

__all__ = ["TOKEN_METHODS", "SteeringConfig", "load_config", "parse_config"]

SteeringConfig = ScalingVis | AdaptVis | NormRescale | Amplify

TOKEN_METHODS = (NormRescale, Amplify)
"""Methods that change the image tokens themselves, and with them every row that sees them."""

_METHODS: dict[str, type[SteeringConfig]] = {
    "scalingvis": ScalingVis,
    "adaptvis": AdaptVis,
    "norm_rescale": NormRescale,
    "amplify": Amplify,
}


def parse_config(value: Mapping[str, Any] | str | SteeringConfig) -> SteeringConfig:
    """Build a configuration from a mapping or a JSON string with a ``method`` key.

    Raises:
        ConfigError: no or unknown method, unknown field, or a value out of range.
    """
    if isinstance(value, SteeringConfig):
        return value
    if isinstance(value, str):
        try:
            value = json_value(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"The steering configuration is not valid JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(
            "A steering configuration must be a mapping such as "
            f'{{"method": "scalingvis", "alpha": 1.2}}, got {type(value).__name__}'
        )
    fields = dict(value)
    method = fields.pop("method", None)
    if not isinstance(method, str):
        raise ConfigError(f"A steering configuration needs a 'method': {', '.join(_METHODS)}")
    if method not in _METHODS:
        raise ConfigError(unknown_name("steering method", method, _METHODS))
    return _METHODS[method](**fields)


def load_config(path: str | Path, name: str | None = None) -> SteeringConfig:
    """Read one configuration from a ``.json``, ``.yaml`` or ``.yml`` file.

    Args:
        name: of one preset, in a file that holds several as ``adaptvis tune`` writes them.

    Raises:
        ConfigError: the file cannot be read, parsed or validated, or holds several and no name was
            given.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json_value(text) if path.suffix == ".json" else yaml_value(text)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON or YAML: {error}") from None
    presets = value.get("presets") if isinstance(value, Mapping) else None
    if not isinstance(presets, Mapping):
        if name is not None:
            raise ConfigError(f"{path} holds one configuration, so it has no preset {name!r}")
        return parse_config(value)
    if name is None and len(presets) == 1:
        name = next(iter(presets))
    if name is None:
        raise ConfigError(
            f"{path} holds the presets {', '.join(map(str, presets))}; name one of them: "
            f"{path}:{next(iter(presets), 'NAME')}"
        )
    if name not in presets:
        raise ConfigError(unknown_name("preset", name, map(str, presets), f"(in {path})"))
    return parse_config(presets[name])
