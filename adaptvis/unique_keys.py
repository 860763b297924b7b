"""JSON and YAML in which no key is given twice: both libraries silently keep the last value."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["json_value", "yaml_value"]


def json_value(text: str) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: no JSON (then a JSONDecodeError), or an object with one key twice.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def yaml_value(text: str) -> Any:
    """The value that a YAML text holds, of plain types.

    Raises:
        yaml.YAMLError: no YAML, or a mapping with one key twice.
        RecursionError: nested too deeply.
    """
    return yaml.load(text, _Loader)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} is given twice")
    return found


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            # Merged keys (<<) are there to be overridden; a list or mapping is refused as a key.
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r:.60} is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)
