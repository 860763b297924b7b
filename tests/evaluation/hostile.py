"""A run whose every text tries to break out of the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluation.made import record
from PIL import Image

from adaptvis.attention_map import AnswerKey, AttentionMap
from adaptvis.evaluation import Record
from adaptvis.evaluation.report import changed_answers, write_report
from adaptvis.evaluation.summary import summarise

ATTACK = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<!--<script>\"'`${window.hacked = 3}`]]>&lt;b&gt;</style></svg></title></textarea>"
    "\u2028\x00\x1b"
)
RUN: dict[str, Any] = {
    "adaptvis": ATTACK,
    "models": [
        {
            "name": ATTACK,
            "source": ATTACK,
            "methods": [
                {"name": "baseline", "config": None},
                {"name": "half" + ATTACK, "config": {"method": "scalingvis", "alpha": 0.5}},
                {"name": "twice" + ATTACK, "config": {"method": "scalingvis", "alpha": 2.0}},
            ],
        }
    ],
    "tasks": [{"name": ATTACK, "source": ATTACK}],
    "seed": 0,
}
ENGINES = {ATTACK: {ATTACK: ATTACK}}


def hostile_records(count: int = 60) -> list[Record]:
    """Every third question becomes right, every fifth wrong."""
    found = []
    for number in range(count):
        for index, method in enumerate(m["name"] for m in RUN["models"][0]["methods"]):
            fixed, broken = number % 3 == 0, number % 5 == 1
            found.append(
                record(
                    number,
                    method,
                    id=f"{number} {ATTACK}",
                    model=ATTACK,
                    task=ATTACK,
                    category=f"{number % 2} {ATTACK}",
                    question=f"{number} {ATTACK}",
                    answer=ATTACK,
                    gold=(ATTACK,),
                    reason=ATTACK,
                    correct=fixed if index else broken,
                    confidence=(number % 20) / 20,
                    alpha=(1.0, 0.5, 2.0)[index],
                    tags={ATTACK: ATTACK, "relation": f"relation {number % 2} {ATTACK}"},
                )
            )
    return found


def picture(_: Record) -> Sequence[Image.Image]:
    """Left half red, right half blue."""
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    return (image,)


def left_and_right() -> AttentionMap:
    """Two tokens in two layers: unsteered looks to the left, steered to the right."""
    return AttentionMap(
        image=np.zeros(2, dtype=np.int64),
        boxes=np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], dtype=np.float64),
        unsteered=np.array([[0.4, 0.0], [0.2, 0.0]], dtype=np.float32),
        steered=np.array([[0.0, 0.8], [0.0, 0.4]], dtype=np.float32),
    )


def hostile_report(folder: Path, count: int = 60) -> Path:
    """The report of that run, with pictures and attention."""
    records = hostile_records(count)
    attention = {AnswerKey(*item.key): left_and_right() for item in changed_answers(records)}
    return write_report(
        folder,
        summarise(records, metrics={ATTACK: lambda answers: {ATTACK: 0.5}}),
        records,
        run=RUN,
        engines=ENGINES,
        open_pictures=picture,
        attention=attention,
    )
