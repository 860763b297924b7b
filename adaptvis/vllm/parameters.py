"""Steering as vLLM carries it: per request in ``extra_args``, per server in ``additional_config``.

A request says either ``{"adaptvis": ...}``, a configuration as JSON or a mapping, or ``"off"``; or
the same in flat fields (``{"adaptvis_alpha": 1.5}``), because the OpenAI server passes only scalars
and lists through ``vllm_xargs``. The front end checks them and puts a :class:`Ticket` in their
place, which scheduler and workers read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from adaptvis.config import AdaptVis, Amplify, NormRescale, ScalingVis, SteeringConfig, parse_config
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.unique_keys import json_value
from adaptvis.vllm.field_names import FIELD, PREFIX, buried, meant, misnamed

__all__ = [
    "FIELD",
    "OFF",
    "ServerSteering",
    "Ticket",
    "extra_args",
    "is_off",
    "read_request",
    "read_server",
    "ticket_of",
]

OFF = "off"
# What clients and their configuration files write for it. vLLM's server makes 0 of false.
_OFF_WORDS = ("off", "none", "null", "false", "no", "0")
_TICKET = "adaptvis_ticket"
_SCALINGVIS = frozenset(ScalingVis.model_fields)
_ADAPTVIS = frozenset(AdaptVis.model_fields)
_FLAT = (_SCALINGVIS | _ADAPTVIS) - {"regions"}

AttentionConfig = ScalingVis | AdaptVis

_NO_AMPLIFICATION = (
    "amplify is not available in vLLM, which shares image embeddings between requests; use "
    "adaptvis.patch with transformers, or evaluate with --engine hf"
)

# Far more than a configuration needs.
_LONGEST_TEXT = 10_000


@lru_cache(maxsize=4096)
def _parsed(text: str) -> AttentionConfig:
    """A configuration that this module has written; a client's text is not kept."""
    return _for_a_request(parse_config(text))


@lru_cache(maxsize=4096)
def _written(config: AttentionConfig) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def extra_args(config: AttentionConfig | Mapping[str, Any] | None) -> dict[str, str]:
    """The ``SamplingParams.extra_args`` (or ``vllm_xargs``) of one request.

    Args:
        config: None switches steering off for the request, whatever the server's default is.

    Raises:
        ConfigError: not a configuration that a request can carry.
    """
    given = _configuration(config)
    return {FIELD: OFF if is_off(given) else _request_config(given).to_json()}


@dataclass(frozen=True)
class ServerSteering:
    """The defaults of a server: steering of requests that say nothing, and norms of all images."""

    attention: AttentionConfig | None = None
    norms: NormRescale | None = None


def read_server(additional_config: object) -> ServerSteering:
    """Read ``--additional-config '{"adaptvis": ...}'``: one configuration or a list of them.

    Raises:
        ConfigError: not a valid configuration, two of one kind, or ours under another name.
    """
    if not isinstance(additional_config, Mapping):
        return ServerSteering()
    _check_server_names(additional_config)
    given = additional_config.get(FIELD)
    attention: AttentionConfig | None = None
    norms: NormRescale | None = None
    for value in given if isinstance(given, list | tuple) else [given]:
        if is_off(value):
            continue
        try:
            config = parse_config(_configuration(value))
        except ConfigError as error:
            raise ConfigError(f"additional_config['{FIELD}']: {error}") from None
        if isinstance(config, NormRescale):
            norms, doubled = config, norms is not None
        else:
            attention, doubled = _for_a_request(config), attention is not None
        if doubled:
            raise ConfigError(
                f"additional_config['{FIELD}'] has two configurations of one kind; give at most "
                "one of scalingvis or adaptvis, and one norm_rescale"
            )
    return ServerSteering(attention, norms)


def _check_server_names(additional_config: Mapping[str, Any]) -> None:
    wrong = misnamed(additional_config)
    wrong += [name for name in additional_config if str(name).startswith(PREFIX)]
    wrong += filter(None, [buried(additional_config)])
    if wrong:
        raise ConfigError(
            f"{', '.join(map(repr, wrong))} in additional_config would steer nothing; a server's "
            f'default is one object: {{"{FIELD}": {{"method": "scalingvis", "alpha": 1.5}}}}'
        )


def is_off(value: Any) -> bool:
    """Whether a value in place of a configuration says that nothing is steered.

    True says nothing of how to steer, and an empty text may be a variable that was not set: neither
    is off.
    """
    if isinstance(value, str):
        return value.strip().strip("\"'").casefold() in _OFF_WORDS
    if isinstance(value, Mapping):
        return value.keys() == {"method"} and is_off(value["method"])
    return value is None or (isinstance(value, int | float) and value == 0)


def read_request(
    arguments: Mapping[str, Any] | None,
    default: AttentionConfig | None,
    *,
    place: str = "extra_args",
    bare: bool = True,
) -> AttentionConfig | None:
    """The configuration of a request: its own, else the server's default; None is unsteered.

    Args:
        place: what the client calls ``arguments``.
        bare: whether coefficients without the prefix are refused.

    Raises:
        ConfigError: names the field that is wrong.
    """
    arguments = arguments or {}
    wrong = misnamed(arguments, bare=bare)
    if wrong:
        raise ConfigError(
            f"{', '.join(map(repr, wrong))} in {place} would steer nothing; write "
            f"{', '.join(repr(meant(name)) for name in wrong)}"
        )
    if inside := buried(arguments):
        raise ConfigError(
            f"{inside} in {place} holds fields of ours, which would steer nothing there; put them "
            f"into {place} itself"
        )
    flat = {name: value for name, value in arguments.items() if name.startswith(PREFIX)}
    flat.pop(_TICKET, None)
    if FIELD not in arguments:
        return _from_flat(flat) if flat else default
    if flat:
        raise ConfigError(f"Give either {FIELD} or {', '.join(sorted(flat))}, not both")
    whole = arguments[FIELD]
    if isinstance(whole, str) and len(whole) > _LONGEST_TEXT:
        raise ConfigError(
            f"{FIELD} has {len(whole)} characters, at most {_LONGEST_TEXT} are expected"
        )
    try:
        given = _configuration(whole)
        return None if is_off(given) else _request_config(given)
    except ConfigError as error:
        raise ConfigError(f"{FIELD}: {error}") from None


def _configuration(value: Any) -> Any:
    """JSON text as what it says; anything else as it is.

    Raises:
        ConfigError: a text that is neither JSON nor off.
    """
    if not isinstance(value, str) or is_off(value):
        return value
    try:
        return json_value(value)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(
            f"{value[:40]!r} is neither a configuration as JSON, such as "
            f'{{"method": "scalingvis", "alpha": 1.5}}, nor "{OFF}"'
        ) from None
    except ValueError as error:
        raise ConfigError(f"not a configuration as JSON: {error}") from None


def _from_flat(flat: Mapping[str, Any]) -> AttentionConfig | None:
    fields = {name.removeprefix(PREFIX): value for name, value in flat.items()}
    for name in fields:
        if name not in _FLAT:
            raise ConfigError(
                unknown_name("parameter", PREFIX + name, (PREFIX + known for known in _FLAT))
            )
    if "method" not in fields:
        both = "alpha" in fields and fields.keys() & (_ADAPTVIS - _SCALINGVIS)
        if both:
            raise ConfigError(
                f"{PREFIX}alpha belongs to scalingvis and {PREFIX}{min(both)} to adaptvis; "
                f"say which one with {PREFIX}method"
            )
        if "alpha" not in fields and not fields.keys() & (_ADAPTVIS - _SCALINGVIS):
            raise ConfigError(
                f"{PREFIX}method (scalingvis, adaptvis or off) or {PREFIX}alpha is needed with "
                f"{', '.join(sorted(flat))}"
            )
        fields["method"] = "scalingvis" if "alpha" in fields else "adaptvis"
    if is_off(fields["method"]):
        if len(fields) > 1:
            raise ConfigError(f"{PREFIX}method=off takes no other {PREFIX} parameter")
        return None
    for name in ("layers", "heads", "images"):
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            fields[name] = [value]
    try:
        return _request_config(fields)
    except ConfigError as error:
        raise ConfigError(_with_field_names(str(error), fields)) from None


def _with_field_names(message: str, fields: Mapping[str, Any]) -> str:
    """``ScalingVis: alpha: ...`` in the names that the client used."""
    _, _, rest = message.partition(": ")
    name = rest.partition(":")[0]
    return PREFIX + rest if name in fields else f"{FIELD}_*: {message}"


def _request_config(value: Any) -> AttentionConfig:
    # Before it is parsed, because that would open the file that a client names.
    if isinstance(value, Mapping) and value.get("method") == "amplify":
        raise ConfigError(_NO_AMPLIFICATION)
    return _for_a_request(parse_config(value))


def _for_a_request(config: SteeringConfig) -> AttentionConfig:
    if isinstance(config, NormRescale):
        raise ConfigError(
            "norm_rescale cannot be chosen per request, because vLLM shares image embeddings "
            "between requests; set it for the server with --additional-config"
        )
    if isinstance(config, Amplify):
        raise ConfigError(_NO_AMPLIFICATION)
    if config.regions is not None:
        raise ConfigError(
            "regions cannot be steered in vLLM yet; use adaptvis.patch with transformers, or leave "
            "regions out"
        )
    return config


@dataclass(frozen=True)
class Ticket:
    """What the front end decided about a request; travels in its ``extra_args``.

    config: None where the request is not steered; ``reason`` says why.
    request_id: the id that the client knows; vLLM adds random characters to it.
    """

    config: AttentionConfig | None
    reason: str
    request_id: str

    def write(self, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """``arguments`` with this ticket in place of the client's own fields."""
        kept = {
            name: value
            for name, value in (arguments or {}).items()
            if name != FIELD and not name.startswith(PREFIX)
        }
        config = None if self.config is None else _written(self.config)
        return kept | {
            _TICKET: {"config": config, "reason": self.reason, "request_id": self.request_id}
        }


def ticket_of(arguments: Mapping[str, Any] | None) -> Ticket | None:
    """The ticket in a request's ``extra_args``, or None."""
    value = (arguments or {}).get(_TICKET)
    if value is None:
        return None
    config = value["config"]
    return Ticket(None if config is None else _parsed(config), value["reason"], value["request_id"])
