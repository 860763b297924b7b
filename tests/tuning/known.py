"""An engine whose best setting is known, and a task for it."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from adaptvis.config import AdaptVis, ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import DataError
from adaptvis.tasks import Answered, Part, Sample, Task
from adaptvis.tuning import Grid, Sweep

QUESTIONS = 900
CONFIDENCE = np.random.default_rng(0).permutation(np.linspace(0.3, 0.999, QUESTIONS))
Chance = Callable[[float, tuple[int, ...] | None, np.ndarray], np.ndarray]


def sweep_of(grid: Grid, chance: Chance, seed: int = 0) -> Sweep:
    """Answers are right with the given chance; three questions share an image."""
    luck = np.random.default_rng(seed).random(QUESTIONS)
    correct = np.stack(
        [
            np.stack([luck < chance(a, None if a == 1 else s, CONFIDENCE) for a in grid.alphas])
            for s in grid.layers
        ]
    )
    images = tuple(f"i{i // 3}" for i in range(QUESTIONS))
    return Sweep(grid, correct.astype(float), CONFIDENCE, images)


class KnownEngine:
    """Right under alpha 1.5 in layers 1-2 for nine of ten questions; unsteered for six of ten.

    fail_after: raises KeyboardInterrupt when it is called once more than that.
    """

    name = "known"

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self.fail_after = fail_after

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        if self.fail_after is not None and len(self.calls) == self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((len(queries), len(configs)))
        return [[self._one(int(q.prompt), c) for q in queries] for c in configs]

    def _one(self, number: int, config: SteeringConfig | None) -> Answer:
        confidence = 0.4 + (number % 60) / 100
        alpha, layers = 1.0, None
        if isinstance(config, ScalingVis):
            alpha, layers = config.alpha, config.layers
        elif isinstance(config, AdaptVis):
            low = confidence < config.threshold
            alpha, layers = (config.alpha_low if low else config.alpha_high), config.layers
        right = number % 10 < 6
        if alpha != 1:
            right = layers == (1, 2) and alpha == 1.5 and number % 10 < 9
        return Answer("left" if right else "right", (1,), confidence, alpha, config is not None)

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}


def numbered(part: Part) -> list[Sample]:
    """330 questions, two of an image, four of a set."""
    image = Image.new("RGB", (2, 2))
    offset = {"validation": 0, "test": 10_000}.get(part, 0)
    return [
        Sample(
            id=str(i),
            prompt=str(i + offset),
            images=lambda: (image,),
            gold=("left",),
            category="c",
            image_id=f"i{i // 2}",
            candidates=("left", "right"),
            tags={"set": f"s{i // 4}", "kind": "odd" if i % 2 else "even"},
        )
        for i in range(330)
    ]


def set_accuracy(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of sets all of whose questions are right."""
    sets: dict[str, bool] = {}
    for answer in answers:
        name = answer.tags["set"]
        sets[name] = sets.get(name, True) and answer.correct
    return {"set_accuracy": sum(sets.values()) / len(sets)}


def unreadable(part: Part) -> list[Sample]:
    """The same with some pictures that cannot be opened."""

    def broken() -> tuple[Image.Image, ...]:
        raise DataError("not an image")

    samples = numbered(part)
    for index in (3, 150):
        object.__setattr__(samples[index], "images", broken)
    return samples


TASK = Task("numbered", "", numbered, source="here", metrics=set_accuracy, joined_by="set")
