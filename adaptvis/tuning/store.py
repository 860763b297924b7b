"""Keep chosen settings, with how they were found.

`adaptvis.json` is the file that lies beside a model's weights; `scalingvis.yaml` and
`adaptvis.yaml` hold one setting each, for whatever takes a configuration file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptvis.config import SteeringConfig
from adaptvis.errors import OutputError
from adaptvis.evaluation.output import write_atomically
from adaptvis.evaluation.statistics import Gain
from adaptvis.presets import MODEL_PRESETS_FILE, load_model_presets
from adaptvis.tuning.select import Selection
from adaptvis.tuning.sweep import Sweep

__all__ = [
    "check_writable",
    "found_by",
    "gain_values",
    "merge_presets",
    "preset_names",
    "store_presets",
]


def check_writable(folder: Path) -> None:
    """Fail before the sweep rather than after it.

    Raises:
        OutputError: the folder does not exist or cannot be written.
        ConfigError: it holds an `adaptvis.json` that is not valid.
    """
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist; make it, or choose another")
    load_model_presets(folder)
    probe = folder / f".{MODEL_PRESETS_FILE}.probe"
    write_atomically(probe, "")
    probe.unlink()


def gain_values(gain: Gain) -> dict[str, Any]:
    """A gain as plain values, with its verdict."""
    return asdict(gain) | {"verdict": gain.verdict}


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
        "unreadable": sweep.unreadable,
        "grid": sweep.grid.to_dict(),
        "objective": selection.objective,
        "settings_compared": selection.compared,
        "every_setting_compared": selection.exact,
        "rule": (
            "simplest setting within one standard error of the best; a method is kept only where "
            "its out-of-fold gain is reliable (95 % interval above 0)"
        ),
        "kept": {"scalingvis": selection.steers, "adaptvis": selection.adaptive},
        f"validation_{selection.objective}": {
            "baseline": selection.baseline,
            "scalingvis": selection.scaling_value,
            "adaptvis": selection.adaptvis_value,
        },
        "out_of_fold_gain": {
            name: None if gain is None else gain_values(gain) for name, gain in gains.items()
        },
    }


def preset_names(selection: Selection) -> tuple[str, str]:
    """Names of the ScalingVis and the AdaptVis setting.

    Rows other than the published ones are part of the names: `scalingvis-text`.
    """
    rows = selection.scaling.rows
    suffix = {"last_prompt_token": "", "text_after_image": "-text"}.get(rows, f"-{rows}")
    return f"scalingvis{suffix}", f"adaptvis{suffix}"


def store_presets(
    folder: Path, selection: Selection, found: Mapping[str, Any], *, yaml: bool = False
) -> list[Path]:
    """Write the two presets to the folder; other presets there stay.

    Args:
        yaml: also one plain configuration file per preset.

    Raises:
        OutputError: a file cannot be written.
    """
    scaling, adaptive = preset_names(selection)
    presets: dict[str, SteeringConfig] = {scaling: selection.scaling, adaptive: selection.adaptvis}
    return merge_presets(folder, presets, selection.scaling.rows, found, yaml=yaml)


def merge_presets(
    folder: Path,
    presets: Mapping[str, SteeringConfig | None],
    name: str,
    found: Mapping[str, Any],
    *,
    yaml: bool = False,
) -> list[Path]:
    """Write presets to the folder's `adaptvis.json`; others there stay, and None takes one out.

    Args:
        name: under which ``found``, how they were found, is kept. yaml: see :func:`store_presets`.

    Raises:
        OutputError: a file cannot be written.
    """
    path = folder / MODEL_PRESETS_FILE
    stored: dict[str, Any] = {"presets": {}}
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
    kept = {preset: config for preset, config in presets.items() if config is not None}
    for preset in presets.keys() - kept.keys():
        stored["presets"].pop(preset, None)
    stored["presets"] |= {preset: config.to_dict() for preset, config in kept.items()}
    stored["found"] = {**stored.get("found", {}), name: dict(found)}
    # An infinite standard error (one image only) has no JSON number.
    text = json.dumps(stored, indent=2).replace(": Infinity", ": null")
    write_atomically(path, text + "\n")
    written = [path]
    for preset, config in kept.items() if yaml else ():
        written.append(folder / f"{preset}.yaml")
        write_atomically(written[-1], config.to_yaml())
    return written
