"""2DS-like scenes of the train part, written as LLaVA-format training data.

The questions are those that the embedded models are trained with. A scene's hash decides its part
(:func:`adaptvis.data.part_of`), so no scene of the validation or test part can be among them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from adaptvis.data.questions import Question
from adaptvis.errors import ConfigError, OutputError
from adaptvis.training.tiny.stream import make_batch

__all__ = ["OBJECTS", "WrittenTwoDS", "write_two_ds"]

OBJECTS: Mapping[int, float] = {2: 2.0, 3: 3.0, 4: 3.0, 5: 1.0, 6: 1.0}
"""Weight of each number of objects, as in the tiny-2ds recipe's last stages."""
_GROUPS = {"what": 0.25, "where": 0.25, "relation": 0.3, "yes_no": 0.2}
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class WrittenTwoDS:
    """Where the data lies, for :class:`ConversationDataset`."""

    data: Path
    image_folder: Path
    samples: int


def write_two_ds(
    folder: str | Path,
    *,
    images: int,
    questions_per_image: int,
    seed: int,
    objects: Mapping[int, float] = OBJECTS,
    turns: int = 1,
) -> WrittenTwoDS:
    """Writes `images/*.png` (56 x 56) and `data.json`; the same arguments give the same bytes.

    The first images of a longer data set are those of a shorter one with the same seed. A few
    scenes allow fewer questions than asked for; each has at least one.

    Args:
        objects: weight of each number of objects per scene.
        turns: questions of an image that form one conversation; 1 makes each its own sample.

    Raises:
        ConfigError: a number below 1.
        OutputError: the folder already holds data.json, or cannot be written.
    """
    for name, value in (
        ("images", images),
        ("questions_per_image", questions_per_image),
        ("turns", turns),
    ):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    folder = Path(folder)
    data, pictures = folder / "data.json", folder / "images"
    if data.exists():
        raise OutputError(f"{data} exists; choose another folder or delete it")
    samples: list[dict[str, Any]] = []
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        for number, (image, questions) in enumerate(
            _scenes(images, questions_per_image, seed, objects)
        ):
            name = f"{number:06d}.png"
            image.save(pictures / name, compress_level=1)
            samples += [
                _sample(f"2ds-{seed}-{number:06d}-{first}", name, questions[first : first + turns])
                for first in range(0, len(questions), turns)
            ]
        # Written last: a folder with data.json is complete.
        part = data.with_name("data.json.part")
        with part.open("w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(sample) for sample in samples) + "\n]\n")
        part.replace(data)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error})") from None
    return WrittenTwoDS(data, pictures, len(samples))


def _scenes(
    images: int, questions: int, seed: int, objects: Mapping[int, float]
) -> Iterator[tuple[Image.Image, list[Question]]]:
    for start in range(0, images, _CHUNK):
        # Whole chunks always, so that the first images do not depend on how many there are.
        batch = make_batch(f"llava-2ds/{seed}/{start}", _CHUNK, questions, objects, _GROUPS)
        for pixels, asked in list(zip(batch.images, batch.questions, strict=True))[
            : images - start
        ]:
            yield Image.fromarray(pixels), asked


def _sample(identity: str, image: str, questions: list[Question]) -> dict[str, Any]:
    turns: list[dict[str, str]] = []
    for number, question in enumerate(questions):
        placeholder = "" if number else "<image>\n"
        turns.append({"from": "human", "value": f"{placeholder}{question.text}"})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": identity, "image": image, "conversations": turns}
