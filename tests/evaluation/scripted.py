"""A deterministic engine and task for what a real model is too slow, or too obedient, for."""

import time
from collections.abc import Sequence
from zlib import crc32

from PIL import Image

from adaptvis.config import AdaptVis, ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.evaluation import Method, ModelPlan, Plan
from adaptvis.tasks import Part, Sample, Task

METHODS = (
    Method("baseline"),
    Method("scalingvis", ScalingVis(alpha=1.2)),
    Method("adaptvis", AdaptVis()),
)


class ScriptedEngine:
    """Answers from a checksum of prompt and configuration; `delay` seconds per batch.

    Like a real model, its confidence depends in the last digits on what else is in the batch.
    """

    name = "scripted"

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.asked = 0

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        time.sleep(self.delay)
        self.asked += len(queries)
        return [[self._one(q, c, len(queries)) for q in queries] for c in configs]

    def _one(self, query: Query, config: SteeringConfig | None, batch: int) -> Answer:
        number = crc32(f"{query.prompt} {config!r}".encode())
        confidence = (crc32(query.prompt.encode()) % 1000) / 1000 + batch * 1e-9
        text = ("left", "right", "[red]left[/red]", "l\u00e9ft\x1b[31m\u2028")[number % 4]
        return Answer(text, (1,), confidence, 1.0 if config is None else 1.2, config is not None)

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}


def load(part: Part) -> list[Sample]:
    return [
        Sample(
            id=f"q{i}",
            prompt=f"Where is object {i}?",
            images=lambda: (Image.new("RGB", (4, 4)),),
            gold=("left",),
            category=f"category_{i % 3}",
            image_id=f"image{i // 3}",
            candidates=("left", "right"),
            object_count=2 + i % 4,
        )
        for i in range(100)
    ]


TASK = Task("scripted", "answers by checksum", load, source="scripted")


def plan(**changes: object) -> Plan:
    values = {
        "models": (ModelPlan("one", "nowhere", METHODS), ModelPlan("two", "nowhere", METHODS)),
        "tasks": (TASK,),
        "batch_size": 7,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]
