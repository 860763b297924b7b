"""Attention steering for vision-language models that see *what* but not *where*.

import adaptvis
with adaptvis.steer(model, adaptvis.AdaptVis()):
    model.generate(**inputs)
"""

from typing import TYPE_CHECKING, Any

from adaptvis.config import (
    AdaptVis,
    Amplify,
    NormRescale,
    Region,
    ScalingVis,
    load_config,
    parse_config,
)
from adaptvis.errors import AdaptVisError, AdaptVisWarning
from adaptvis.presets import PRESETS, preset

if TYPE_CHECKING:
    from adaptvis.hf.decisions import Decision
    from adaptvis.hf.patch import SteeringHandle, patch, steer, unpatch

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AdaptVis",
    "AdaptVisError",
    "AdaptVisWarning",
    "Amplify",
    "Decision",
    "NormRescale",
    "Region",
    "ScalingVis",
    "SteeringHandle",
    "load_config",
    "parse_config",
    "patch",
    "preset",
    "steer",
    "unpatch",
]

_FROM_HF = ("Decision", "SteeringHandle", "patch", "steer", "unpatch")


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # transformers and torch load on first use: the vLLM plugin imports this package too.
    if name in _FROM_HF:
        import adaptvis.hf

        return getattr(adaptvis.hf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
