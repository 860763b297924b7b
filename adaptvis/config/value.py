"""What every steering configuration is: a frozen value of numbers and indices, checked in words."""

from __future__ import annotations

import json
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from adaptvis.errors import ConfigError

__all__ = [
    "Index",
    "Indices",
    "Number",
    "Value",
    "indices_in_order",
    "not_a_truth_value",
    "parse_indices",
]

_LARGEST_INDEX = 4095
_PROBLEMS_NAMED = 3


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ConfigError(_sentence(type(self).__name__, error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, without the fields left at ``None``."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> str:
        """One line of JSON that :func:`parse_config` reads back."""
        return json.dumps(self.to_dict())

    def to_yaml(self) -> str:
        """YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def parse_indices(value: Any) -> Any:
    """Accept ``"0-3,7"`` wherever a sequence of indices is expected."""
    if not isinstance(value, str):
        if _is_mask(value):
            raise ValueError(
                "expected the indices that are steered, got a mask of booleans; "
                "numpy.flatnonzero(mask) turns one into the other"
            )
        return value
    indices: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{value[:40]!r} is not a list of indices such as '0-3,7'")
        if len(first) > 4 or len(last) > 4:
            raise ValueError(f"indices go up to {_LARGEST_INDEX}, got {part.strip()[:40]!r}")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise ValueError(f"range {part.strip()!r} runs backwards")
        indices.extend(range(int(first), stop + 1))
    return tuple(indices)


def _is_mask(value: Any) -> bool:
    """Booleans count as 0 and 1, so a mask would name the first two indices."""
    if hasattr(value, "dtype"):
        return str(value.dtype).endswith("bool")
    if not isinstance(value, list | tuple):
        return False
    return any(type(item).__name__ in ("bool", "bool_") for item in value)


def indices_in_order(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not value:
        raise ValueError("an empty selection would steer nothing; leave it out to select all")
    if min(value) < 0:
        raise ValueError(f"indices count from 0, got {min(value)}")
    if max(value) > _LARGEST_INDEX:
        raise ValueError(f"indices go up to {_LARGEST_INDEX}, got {max(value)}")
    return tuple(sorted(set(value)))


def not_a_truth_value(value: Any) -> Any:
    # pydantic would read True as 1, and with it a switch as a coefficient or a layer.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise ValueError(f"a number is expected, got {bool(value)}")
    return value


Number = Annotated[float, BeforeValidator(not_a_truth_value)]
Index = Annotated[int, BeforeValidator(not_a_truth_value)]
Indices = Annotated[tuple[Index, ...], BeforeValidator(parse_indices)]


def _sentence(name: str, error: ValidationError) -> str:
    parts = []
    problems = error.errors(include_url=False)
    for item in problems[:_PROBLEMS_NAMED]:
        field = ".".join(str(step) for step in item["loc"] if not str(step).startswith("literal["))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not a parameter of this method"
        elif item["type"] == "missing":
            message = "is required"
        elif not item["msg"].startswith("Value error"):
            given = repr(item["input"])
            message = f"{message}, got {given if len(given) <= 80 else given[:80] + '...'}"
        parts.append(f"{field}: {message}" if field else message)
    if len(problems) > _PROBLEMS_NAMED:
        parts.append(f"and {len(problems) - _PROBLEMS_NAMED} more")
    return f"{name}: {'; '.join(parts)}"
