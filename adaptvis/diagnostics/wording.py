"""Numbers of a result as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flat", "positions", "short"]


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as rows of a table."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += flat(value, f"{label}: ")
        else:
            rows.append((label, short(value)))
    return rows


def short(value: Any) -> str:
    """A JSON value for people: four significant digits, intervals as `low to high`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        between = " to " if len(value) == 2 else ", "
        return between.join(short(part) for part in value)
    return str(value)


def positions(count: float) -> str:
    """A number of positions: `1 position`, `0.05 positions`."""
    return f"{count:g} position" if count == 1 else f"{count:g} positions"
