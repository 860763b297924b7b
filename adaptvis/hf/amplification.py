"""Amplifying directions of projected image tokens (Dual Mechanisms, section 5.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptvis.config import Amplify
from adaptvis.hf.features import edit_features
from adaptvis.steering.amplification import amplify_directions
from adaptvis.steering.directions import directions_of

__all__ = ["Amplification"]


@dataclass(frozen=True, eq=False)
class Amplification:
    """An Amplify with its directions read: float32 [K, D]."""

    config: Amplify
    directions: Tensor

    @classmethod
    def load(cls, config: Amplify, width: int, device: torch.device) -> Amplification:
        """Read the directions of a model whose embeddings have ``width`` numbers.

        Raises:
            ConfigError: see :func:`adaptvis.steering.directions.directions_of`.
        """
        directions = directions_of(config, width)
        # Where weights are offloaded the table's own device is none; they follow the features.
        return cls(config, directions if device.type == "meta" else directions.to(device))

    def apply(self, outputs: Any) -> Any:
        """Amplify what ``get_image_features`` returned, keeping its type."""
        return edit_features(
            outputs,
            lambda feature: amplify_directions(feature, self.directions, self.config.alpha),
            "Amplify",
        )
