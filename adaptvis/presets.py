"""Named presets: the published settings, and those stored beside a model's weights.

The published values are LLaVA-1.5's (AdaptVis, ``run.sh`` and project page). They are starting
points, not recommendations for other models: tune on validation data.

The authors' code does not act on its thresholds as the paper says: it rounds the confidence to two
decimals first, and on VSR it compares the largest logit, which practically always takes the larger
coefficient. ``adaptvis-TASK`` has the paper's rule with the published numbers, and
``adaptvis-TASK-reference`` the code's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adaptvis.config import AdaptVis, ScalingVis, SteeringConfig, load_config, parse_config
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.unique_keys import json_value

__all__ = [
    "MODEL_PRESETS_FILE",
    "PRESETS",
    "file_of",
    "find_config",
    "load_model_presets",
    "preset",
    "rule_of_the_code",
]

MODEL_PRESETS_FILE = "adaptvis.json"
_FILES = (".json", ".yaml", ".yml")

_SCALING_ALPHA = {
    "controlled_a": 0.8,
    "controlled_b": 0.8,
    "coco_one": 1.2,
    "coco_two": 1.2,
    "vg_one": 2.0,
    "vg_two": 2.0,
    "vsr": 0.5,
}
# task: alpha_low, alpha_high, threshold
_ADAPTVIS = {
    "controlled_a": (0.5, 1.5, 0.4),
    "controlled_b": (0.5, 1.5, 0.35),
    "coco_one": (0.5, 1.2, 0.3),
    "coco_two": (0.5, 1.2, 0.3),
    "vg_one": (0.5, 2.0, 0.2),
    "vg_two": (0.5, 2.0, 0.2),
    "vsr": (0.5, 1.2, 0.64),
}

_REFERENCE = "-reference"

PRESETS: dict[str, SteeringConfig] = {
    **{f"scalingvis-{task}": ScalingVis(alpha=alpha) for task, alpha in _SCALING_ALPHA.items()},
    **{
        f"adaptvis-{task}": AdaptVis(alpha_low=low, alpha_high=high, threshold=threshold)
        for task, (low, high, threshold) in _ADAPTVIS.items()
    },
    **{
        f"adaptvis-{task}{_REFERENCE}": AdaptVis(
            alpha_low=low,
            alpha_high=high,
            threshold=threshold,
            compared="rounded_logit" if task == "vsr" else "rounded_confidence",
        )
        for task, (low, high, threshold) in _ADAPTVIS.items()
    },
}
"""Settings by name; those that end in ``-reference`` act as the authors' code does."""


def preset(name: str) -> SteeringConfig:
    """The published setting of that name, for example ``"adaptvis-controlled_a"``.

    That one has the published numbers under the paper's rule. The authors' code rounds the
    confidence to two decimals before it compares, and on VSR compares a raw logit with 0.64, which
    nearly always takes alpha_high: ``"adaptvis-controlled_a-reference"`` does as it does.

    Raises:
        ConfigError: no preset has that name; the message lists them.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]


def rule_of_the_code(name: str) -> str:
    """How the authors' code departs from the preset of that name; empty where it does not."""
    reference = PRESETS.get(name + _REFERENCE)
    if not isinstance(reference, AdaptVis):
        return ""
    if reference.compared == "rounded_logit":
        does = (
            "compares the largest raw logit, so that it nearly always takes the larger coefficient"
        )
    else:
        does = "rounds the confidence to two decimals before it compares"
    return (
        f"{name} has the published numbers under the paper's rule; the authors' code {does}: "
        f"{name}{_REFERENCE} does the same"
    )


def file_of(text: str) -> tuple[Path, str | None] | None:
    """The file and the preset in it that a text such as `adaptvis.json:adaptvis` means, if any."""
    if Path(text).suffix in _FILES:
        return Path(text), None
    path, colon, name = text.rpartition(":")
    if colon and Path(path).suffix in _FILES:
        return Path(path), name
    return None


def find_config(text: str, own: Mapping[str, SteeringConfig] | None = None) -> SteeringConfig:
    """The configuration that a text means.

    Args:
        text: JSON, the path of a ``.json`` or ``.yaml`` file, such a file with the name of a
            preset in it (``adaptvis.json:adaptvis``), or the name of a preset.
        own: presets of the model, which come before the published ones.

    Raises:
        ConfigError: it is none of them, or not valid.
    """
    if text.lstrip().startswith("{"):
        return parse_config(text)
    if (file := file_of(text)) is not None:
        return load_config(*file)
    known = {**PRESETS, **(own or {})}
    if text not in known:
        hint = "(or give a JSON configuration, or the path of a .json or .yaml file)"
        raise ConfigError(unknown_name("preset", text, known, hint))
    return known[text]


def load_model_presets(model_directory: str | Path) -> dict[str, SteeringConfig]:
    """The presets stored beside a model's weights in ``adaptvis.json``; empty without the file.

    The file holds ``{"presets": {name: configuration}, ...}``; other keys say how they were found.

    Raises:
        ConfigError: the file is there and is not valid.
    """
    path = Path(model_directory) / MODEL_PRESETS_FILE
    if not path.is_file():
        return {}
    try:
        stored = json_value(path.read_text(encoding="utf-8-sig"))["presets"]
        items = stored.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f'{path} must hold {{"presets": {{name: configuration}}}}; mend or remove it'
        ) from None
    return {name: parse_config(value) for name, value in items}
