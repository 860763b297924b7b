"""The settings that a sweep tries: coefficients and selections of layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adaptvis.config import Rows, ScalingVis
from adaptvis.errors import ConfigError

__all__ = ["DEFAULT_ALPHAS", "Grid", "Layers"]

Layers = tuple[int, ...] | None
"""Decoder layers to steer; None is all of them."""

DEFAULT_ALPHAS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Grid:
    """The settings to try; alpha 1 (no steering) is always among them.

    Raises:
        ConfigError: a coefficient is 0 or not finite, a layer selection is wrong, or one repeats.
    """

    alphas: tuple[float, ...] = DEFAULT_ALPHAS
    layers: tuple[Layers, ...] = (None,)
    rows: Rows = "last_prompt_token"

    def __post_init__(self) -> None:
        alphas = tuple(sorted({*self.alphas, 1.0}))
        object.__setattr__(self, "alphas", alphas)
        if alphas[0] == 0:
            raise ConfigError("A coefficient of the grid must be above 0, got 0")
        if len(alphas) == 1:
            raise ConfigError("The grid needs a coefficient other than 1")
        if not self.layers or len(set(self.layers)) != len(self.layers):
            raise ConfigError("The grid needs at least one selection of layers, each once")
        for layers in self.layers:
            for alpha in alphas:
                self.config(alpha, layers)

    def config(self, alpha: float, layers: Layers) -> ScalingVis:
        return ScalingVis(alpha=alpha, layers=layers, rows=self.rows)

    @property
    def neutral(self) -> int:
        """The index of alpha = 1."""
        return self.alphas.index(1.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of layer selections and of coefficients."""
        return len(self.layers), len(self.alphas)

    def steered(self) -> Iterator[tuple[int, int]]:
        """Indices (layer selection, coefficient) of every setting that steers."""
        selections, alphas = self.shape
        for selection in range(selections):
            for alpha in range(alphas):
                if alpha != self.neutral:
                    yield selection, alpha

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "alphas": list(self.alphas),
            "layers": [list(s) if s is not None else "all" for s in self.layers],
            "rows": self.rows,
        }
