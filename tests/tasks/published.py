"""Tiny folders in the published layouts, and answers as an evaluation records them."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from adaptvis.engine import Answer
from adaptvis.evaluation.records import Record
from adaptvis.tasks import Sample, Task

__all__ = [
    "CV_BENCH_ROWS",
    "MMVP_ROWS",
    "picture",
    "records",
    "scores",
    "write_csv",
    "write_json",
    "write_jsonl",
    "write_whatsup",
]

PROMPT = "<image>\nUSER: Where is the {} in relation to the {}? Answer with {}.\nASSISTANT:"


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_whatsup(root: Path, subset: str = "A", groups: int = 2, pictures: bool = True) -> Path:
    """Controlled A or B: `groups` sets of four pictures, mugs on tables, numbered."""
    if subset == "A":
        relations = {"left_of": "Left", "right_of": "Right", "on": "On", "under": "Under"}
        folder, name, options = "controlled_images", "images", "left, right, on or under"
    else:
        relations = {"left_of": "Left", "right_of": "Right", "in-front_of": "Front"}
        relations["behind"] = "Behind"
        folder, name, options = "controlled_clevr", "clevr", "left, right, front or behind"
    items, prompts = [], []
    for group in range(groups):
        for relation, answer in relations.items():
            path = f"data/{folder}/beer-mug{group}_{relation}_table.jpeg"
            if pictures:
                picture(root / path)
            captions = [f"A beer mug {r.replace('_', ' ')} a table" for r in relations]
            items.append({"image_path": path, "caption_options": captions})
            question = PROMPT.format(f"beer mug{group}", "table", options)
            prompts.append({"id": len(prompts), "question": question, "answer": [answer]})
    (root / f"data/{folder}").mkdir(parents=True, exist_ok=True)
    write_json(root / f"data/controlled_{name}_dataset.json", items)
    published = f"Controlled_Images_{subset}_with_answer_four_options"
    write_jsonl(root / f"prompts/{published}.jsonl", prompts)
    return root


def _cv(idx: int, task: str, source: str, answer: str, choices: Sequence[str]) -> dict[str, Any]:
    kind = "2D" if task in ("Count", "Relation") else "3D"
    listed = "\n".join(f"({chr(65 + i)}) {choice}" for i, choice in enumerate(choices))
    return {
        "idx": idx,
        "type": kind,
        "task": task,
        "question": "Which?",
        "choices": list(choices),
        "answer": answer,
        "prompt": f"Which? Select from the following choices.\n{listed}",
        "filename": f"img/{kind}/{idx}.png",
        "source": source,
        "source_filename": f"original-{idx // 2}.jpg",
    }


CV_BENCH_ROWS = {
    "2d": [
        _cv(0, "Count", "ADE20K", "(C)", ["0", "1", "2"]),
        _cv(1, "Count", "COCO", "(A)", ["3", "4"]),
        _cv(2, "Relation", "ADE20K", "(B)", ["left", "right"]),
        _cv(3, "Relation", "ADE20K", "(A)", ["left", "right"]),
    ],
    "3d": [
        _cv(4, "Depth", "Omni3D", "(A)", ["chair", "bed"]),
        _cv(5, "Distance", "Omni3D", "(B)", ["chair", "bed"]),
    ],
}

MMVP_ROWS = [
    {
        "Index": index,
        "Question": "Are the wings open, or closed?",
        "Options": "(a) Open (b) Closed",
        "Correct Answer": "(a)" if index % 2 else "(b)",
    }
    for index in (1, 2, 3, 4, 99, 100)
]


def records(task: Task, samples: Sequence[Sample], texts: Sequence[str]) -> list[Record]:
    """The records of answers `texts` to `samples`."""
    return [
        Record.of(
            sample,
            Answer(text=text, token_ids=(), confidence=0.5, alpha=1.0, applied=False),
            task.grade(sample, text),
            task=task.name,
            model="model",
            method="baseline",
        )
        for sample, text in zip(samples, texts, strict=True)
    ]


def scores(task: Task, samples: Sequence[Sample], texts: Sequence[str]) -> dict[str, float]:
    """The task's metrics for answers `texts` to `samples`."""
    assert task.metrics is not None
    return task.metrics(records(task, samples, texts))
