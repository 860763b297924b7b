"""2DS, the 2-D synthetic spatial benchmark (Beyond Semantics, section 5.1).

Five meta-categories (2 to 6 objects) of 100 images each; within one, the same set of objects at
varying positions. Each image gets one question of each of the six categories: 3000 questions.
Stored in the schema of the published parquet file (user074/2DSyntheticDataset).
"""

import io
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from adaptvis.data.questions import (
    CATEGORIES,
    KINDS_OF,
    Question,
    asked_objects,
    pick_balanced,
    questions_about,
)
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import (
    Part,
    Scene,
    SceneObject,
    check_part,
    draw_appearance,
    part_of,
    place,
    render,
)
from adaptvis.errors import DataError
from adaptvis.pictures import as_rgb

__all__ = [
    "OBJECT_COUNTS",
    "Entry",
    "entry_of_row",
    "generate_2ds",
    "read_parquet",
    "two_ds_samples",
    "write_parquet",
]

OBJECT_COUNTS = (2, 3, 4, 5, 6)

_OBJECT = pa.struct(
    [("color", pa.string()), ("shape", pa.string())]
    + [(key, pa.int32()) for key in ("x", "y", "radius")]
)
_QA = pa.struct([(key, pa.string()) for key in ("question", "answer", "qa_category")])
_SCHEMA = pa.schema(
    [
        # Despite its name this column holds the encoded image.
        ("image_filename", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("qa_pairs", pa.list_(_QA)),
        ("entry_id", pa.int64()),
        ("test_category", pa.string()),
        ("objects", pa.list_(_OBJECT)),
    ],
    metadata={
        "huggingface": json.dumps({"info": {"features": {"image_filename": {"_type": "Image"}}}})
    },
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of 2DS with its questions; `objects` is empty where a file does not tell."""

    entry_id: int
    test_category: str
    image_png: bytes
    questions: tuple[Question, ...]
    objects: tuple[SceneObject, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The decoded RGB image."""
        return as_rgb(Image.open(io.BytesIO(self.image_png)))

    @property
    def object_count(self) -> int:
        """Number of objects; from the meta-category's digits where the objects are not stored."""
        digits = "".join(c for c in self.test_category if c.isdigit())
        return len(self.objects) or int(digits or 0)

    def samples(self) -> list[Sample]:
        """The entry's questions as evaluation records."""
        image = self.image
        image_id = f"2ds-{self.entry_id:05d}"
        scene = Scene(self.objects)
        return [
            Sample(
                id=f"{image_id}-{q.category}",
                image_id=image_id,
                image=image,
                question=q.text,
                answer=q.answer,
                category=q.category,
                kind=q.kind,
                object_count=self.object_count,
                candidates=q.candidates,
                asked=tuple(o.box for o in asked_objects(scene, q.text)),
            )
            for q in self.questions
        ]


def generate_2ds(
    split: Part = "test", seed: int = 0, images_per_count: int = 100, scale: int = 1
) -> list[Entry]:
    """The benchmark; the same arguments give the same bytes.

    Args:
        split: train, validation or test; a scene can occur in one of them only, for all seeds.
        images_per_count: images in each of the five meta-categories (100 as published).
        scale: pixels per grid cell; 1 gives 56 x 56 images, 6 gives 336 x 336.

    Raises:
        DataError: unknown split, or a count or scale below 1.
    """
    check_part(split)
    if images_per_count < 1 or scale < 1:
        raise DataError("images_per_count and scale must be at least 1.")
    entries: list[Entry] = []
    for count in OBJECT_COUNTS:
        # The set of objects is shared by the splits: only positions vary within a meta-category.
        appearance = draw_appearance(random.Random(f"2ds/{seed}/{count}"), count)
        rng = random.Random(f"2ds/{seed}/{count}/{split}")
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for index in range(images_per_count):
            scene, questions = _scene_with_questions(rng, appearance, split, index, counts)
            entries.append(
                Entry(
                    entry_id=len(entries),
                    test_category=f"{count}_objects",
                    image_png=_png(render(scene, scale)),
                    questions=questions,
                    objects=scene.objects,
                )
            )
    return entries


def two_ds_samples(
    split: Part = "test", seed: int = 0, images_per_count: int = 100, scale: int = 1
) -> list[Sample]:
    """The questions of `generate_2ds` as a flat list."""
    entries = generate_2ds(split, seed, images_per_count, scale)
    return [sample for entry in entries for sample in entry.samples()]


def _scene_with_questions(
    rng: random.Random,
    appearance: list[tuple[str, str]],
    split: Part,
    index: int,
    counts: dict[str, dict[str, int]],
) -> tuple[Scene, tuple[Question, ...]]:
    kinds = [KINDS_OF[c][(index + k) % 2] for k, c in enumerate(CATEGORIES)]
    while True:
        scene = place(rng, appearance)
        if part_of(scene) != split:
            continue
        options = [questions_about(scene, c, k) for c, k in zip(CATEGORIES, kinds, strict=True)]
        if all(options):
            break
    picked = (
        pick_balanced(found, counts[f"{category}/{kind}"], rng)
        for found, category, kind in zip(options, CATEGORIES, kinds, strict=True)
    )
    return scene, tuple(picked)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(entries: list[Entry], path: str | Path) -> None:
    """Writes entries in the published schema."""
    rows = [
        {
            "image_filename": {"bytes": e.image_png, "path": f"{e.entry_id:05d}.png"},
            "qa_pairs": [
                {"question": q.text, "answer": q.answer, "qa_category": q.category}
                for q in e.questions
            ],
            "entry_id": e.entry_id,
            "test_category": e.test_category,
            "objects": [
                {k: getattr(o, k) for k in ("color", "shape", "x", "y", "radius")}
                for o in e.objects
            ],
        }
        for e in entries
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)


def read_parquet(path: str | Path) -> list[Entry]:
    """Reads a 2DS file, ours or the published one.

    Raises:
        DataError: the file is missing, not parquet, or lacks a column.
    """
    try:
        rows = pq.read_table(path).to_pylist()
        return [entry_of_row(row) for row in rows]
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as a parquet file: {error}.") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not have the columns of 2DS: {error!r}.") from error


def entry_of_row(row: Mapping[str, Any]) -> Entry:
    """The entry that a row of the published schema holds.

    Raises:
        KeyError, TypeError: the row has another schema.
    """
    image = row["image_filename"]
    return Entry(
        entry_id=int(row["entry_id"]),
        test_category=str(row["test_category"]),
        image_png=image["bytes"] if isinstance(image, dict) else image,
        questions=tuple(
            Question(q["question"], q["answer"], q["qa_category"]) for q in row["qa_pairs"]
        ),
        objects=_objects(row["objects"]),
    )


def _objects(stored: Any) -> tuple[SceneObject, ...]:
    """Our own object records; another file's descriptions are left out."""
    keys = {"color", "shape", "x", "y", "radius"}
    if not isinstance(stored, list) or not all(
        isinstance(o, dict) and set(o) == keys for o in stored
    ):
        return ()
    return tuple(SceneObject(**o) for o in stored)
