"""Keep chosen settings beside the model's weights, with how they were found."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptvis.errors import OutputError
from adaptvis.evaluation.output import write_atomically
from adaptvis.presets import MODEL_PRESETS_FILE, load_model_presets
from adaptvis.tuning.search import Sweep
from adaptvis.tuning.select import Selection

__all__ = ["check_writable", "found_by", "store_presets"]


def check_writable(folder: Path) -> None:
    """Fail before the sweep rather than after it.

    Raises:
        OutputError: the folder does not exist or cannot be written.
        ConfigError: it holds an `adaptvis.json` that is not valid.
    """
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist; give --output a folder")
    load_model_presets(folder)
    probe = folder / f".{MODEL_PRESETS_FILE}.probe"
    write_atomically(probe, "")
    probe.unlink()


def found_by(selection: Selection, sweep: Sweep, details: Mapping[str, Any]) -> dict[str, Any]:
    """How the settings were found, as plain values."""
    gains = {
        "scalingvis_over_baseline": selection.scaling_gain,
        f"adaptvis_over_{'scalingvis' if selection.steers else 'baseline'}": (
            selection.adaptvis_gain
        ),
    }
    return {
        **details,
        "questions": selection.questions,
        "images": selection.scaling_gain.images,
        "grid": {
            "alphas": list(sweep.grid.alphas),
            "layers": [list(s) if s is not None else "all" for s in sweep.grid.layers],
            "rows": sweep.grid.rows,
        },
        "rule": (
            "simplest setting within one standard error of the best; a method is kept only where "
            "its out-of-fold gain is reliable (95 % interval above 0)"
        ),
        "kept": {"scalingvis": selection.steers, "adaptvis": selection.adaptive},
        "validation_accuracy": {
            "baseline": selection.baseline_accuracy,
            "scalingvis": selection.scaling_accuracy,
            "adaptvis": selection.adaptvis_accuracy,
        },
        "out_of_fold_gain": {
            name: {k: v for k, v in asdict(gain).items() if k not in ("questions", "images")}
            | {"verdict": gain.verdict}
            for name, gain in gains.items()
        },
    }


def store_presets(folder: Path, selection: Selection, found: Mapping[str, Any]) -> Path:
    """Write presets `scalingvis` and `adaptvis` to the folder; other presets there stay.

    Rows other than the published ones are part of the names: `scalingvis-text`.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / MODEL_PRESETS_FILE
    stored: dict[str, Any] = {"presets": {}}
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
    rows = selection.scaling.rows
    suffix = {"last_prompt_token": "", "text_after_image": "-text"}.get(rows, f"-{rows}")
    stored["presets"] |= {
        f"scalingvis{suffix}": selection.scaling.to_dict(),
        f"adaptvis{suffix}": selection.adaptvis.to_dict(),
    }
    stored["found"] = {**stored.get("found", {}), rows: dict(found)}
    write_atomically(path, json.dumps(stored, indent=2) + "\n")
    return path
