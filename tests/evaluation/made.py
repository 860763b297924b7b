"""Records made by hand."""

from dataclasses import replace
from typing import Any

from adaptvis.evaluation import Record


def record(number: int = 0, method: str = "baseline", **changes: Any) -> Record:
    """An answer to question `number`, right unless told otherwise."""
    values: dict[str, Any] = {
        "id": f"q{number}",
        "task": "t",
        "category": "c",
        "model": "m",
        "method": method,
        "question": f"Where is object {number}?",
        "answer": "left",
        "gold": ("left",),
        "correct": True,
        "strict": True,
        "in_candidates": True,
        "confidence": 0.9,
        "alpha": 1.0,
        "applied": method != "baseline",
        "reason": "",
        "image_id": f"i{number}",
        "object_count": None,
        "agrees_with_prior": None,
        "tags": {},
    }
    values |= changes
    values.setdefault("score", float(values["correct"]))
    return Record(**values)


def failed(of: Record, error: str) -> Record:
    """The record of a question that could not be asked."""
    return replace(of, error=error)
