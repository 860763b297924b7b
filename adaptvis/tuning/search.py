"""Ask validation questions once under every coefficient and layer selection of a grid.

Each batch is one engine call: the prefill is shared, and every further setting costs one token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis.config import Rows, ScalingVis
from adaptvis.engine import Engine
from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks import Part, Task

__all__ = ["DEFAULT_ALPHAS", "Grid", "Layers", "Sweep", "run_sweep"]

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


@dataclass(frozen=True)
class Sweep:
    """Correctness of every question under every setting of a grid.

    correct: `[layer selections, alphas, questions]`; alpha = 1 is the same in every selection.
    confidence: of the first token, unsteered, `[questions]`.
    images: the picture of each question, for clustering.
    """

    grid: Grid
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    images: tuple[str, ...]


def run_sweep(
    engine: Engine,
    task: Task,
    grid: Grid,
    *,
    limit: int | None = None,
    part: Part = "validation",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Answer the questions of a part under the whole grid.

    Raises:
        ConfigError: the batch size is below 1.
        DataError: the task has no such part, or the model gave no finite confidence.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size must be at least 1, got {batch_size}")
    samples = task.load(limit, part)
    steered = [(s, a) for s in range(len(grid.layers)) for a in _steered_alphas(grid)]
    configs = [None, *(grid.config(grid.alphas[a], grid.layers[s]) for s, a in steered)]
    correct = np.zeros((len(grid.layers), len(grid.alphas), len(samples)), dtype=bool)
    confidence = np.zeros(len(samples))
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        answers = engine.answer(
            [sample.query() for sample in batch], configs, max_new_tokens=task.max_new_tokens
        )
        for offset, sample in enumerate(batch):
            question = start + offset
            confidence[question] = answers[0][offset].confidence
            graded = [task.grade(sample, of_config[offset].text).correct for of_config in answers]
            correct[:, grid.neutral, question] = graded[0]
            for (selection, alpha), hit in zip(steered, graded[1:], strict=True):
                correct[selection, alpha, question] = hit
        if progress:
            progress(start + len(batch), len(samples))
    if not np.isfinite(confidence).all():
        raise DataError(
            "The model's confidence is not a finite number for some questions; try --dtype float32"
        )
    return Sweep(grid, correct, confidence, tuple(s.image_id for s in samples))


def _steered_alphas(grid: Grid) -> Iterator[int]:
    return (index for index in range(len(grid.alphas)) if index != grid.neutral)
