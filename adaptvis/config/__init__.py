"""Steering configurations: frozen pydantic models, discriminated by ``method``.

The semantics are those of *Why Is Spatial Reasoning Hard for VLMs?* (AdaptVis, ICML 2025),
*Beyond Semantics* (section 5.2) and *The Dual Mechanisms of Spatial Reasoning in VLMs* (section
5.4): see each class. Configurations are values: hashable, comparable, and the same after a round
trip through JSON or YAML.
"""

from adaptvis.config.attention import (
    AdaptVis,
    AttentionSteering,
    Compared,
    Region,
    Rows,
    ScalingVis,
)
from adaptvis.config.image_tokens import Amplify, NormRescale
from adaptvis.config.reading import TOKEN_METHODS, SteeringConfig, load_config, parse_config
from adaptvis.config.value import parse_indices

__all__ = [
    "TOKEN_METHODS",
    "AdaptVis",
    "Amplify",
    "AttentionSteering",
    "Compared",
    "NormRescale",
    "Region",
    "Rows",
    "ScalingVis",
    "SteeringConfig",
    "load_config",
    "parse_config",
    "parse_indices",
]
