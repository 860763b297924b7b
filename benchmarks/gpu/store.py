"""Results as they come, one JSON line each, so that a run that is cut off keeps what it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]


class Store:
    """The finished parts of one stage, of one key (:func:`gpu.setting.key_of`)."""

    def __init__(self, path: Path, key: str, *, again: bool = False) -> None:
        self.path, self.key = path, key
        self.results: dict[str, Result] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = []
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                # The last line of a process that was killed while it wrote.
                continue
            if entry["key"] == key and not again and "problem" not in entry["result"]:
                self.results[entry["part"]] = entry["result"]
            if entry["key"] != key or not again:
                kept.append(line)
        self.kept = len(self.results)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, part: str, result: Result) -> None:
        """Write a result down."""
        self.results[part] = result
        entry = {"key": self.key, "part": part, "result": result}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
