"""A stage's conversations: given or generated, found and hashed before the first step."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis.errors import AdaptVisWarning, ConfigError, DataError
from adaptvis.models.processors import with_aspect_ratio
from adaptvis.training.llava.data import Collator, ConversationDataset, check, write_two_ds
from adaptvis.training.llava.recipe import GeneratedData, Recipe, Stage

__all__ = [
    "Source",
    "collator_of",
    "dataset_of",
    "locate",
    "require_given",
    "require_usable",
]

_REPORTED = 20


class Source(NamedTuple):
    """A JSON file, the folder of its images, and the file's SHA-256."""

    path: Path
    images: Path
    sha256: str


def require_given(recipe: Recipe) -> None:
    """Refuse a recipe whose data was not given, or is not there.

    Raises:
        ConfigError: which stage, and which option gives it.
        DataError: the file or the folder does not exist.
    """
    for stage in recipe.stages:
        if isinstance(stage.data, GeneratedData):
            continue
        if stage.data.path is None or stage.data.images is None:
            option = f"--{stage.name.replace('-', '')}"
            raise ConfigError(
                f"{stage.name} of recipe {recipe.name!r} needs data "
                f"({stage.data.needs or 'a LLaVA-format JSON file'}); give {option}-data and "
                f"{option}-images"
            )
        if not stage.data.path.is_file():
            raise DataError(f"The data of {stage.name}, {stage.data.path}, is no existing file")
        if not stage.data.images.is_dir():
            raise DataError(
                f"The image folder of {stage.name}, {stage.data.images}, does not exist"
            )


def locate(recipe: Recipe, output: Path, seed: int) -> dict[str, Source]:
    """Every stage's source; generates what is generated, unless it is there.

    Raises:
        DataError, OutputError: a file cannot be read or written.
    """
    return {stage.name: _source(i, stage, output, seed) for i, stage in enumerate(recipe.stages)}


def _source(place: int, stage: Stage, output: Path, seed: int) -> Source:
    data = stage.data
    if isinstance(data, GeneratedData):
        folder = output / "data" / stage.name
        if not folder.is_dir():
            part = folder.with_name(f".{stage.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write_two_ds(
                part,
                images=data.images,
                questions_per_image=data.questions_per_image,
                seed=100 * seed + place if data.seed is None else data.seed,
                turns=data.turns,
                **({} if data.objects is None else {"objects": data.objects}),
            )
            part.rename(folder)
        path, images = folder / "data.json", folder / "images"
    else:
        if data.path is None or data.images is None:
            raise ConfigError(f"{stage.name} has no data")
        path, images = data.path, data.images
    with path.open("rb") as file:
        return Source(path, images, hashlib.file_digest(file, "sha256").hexdigest())


def dataset_of(stage: Stage, source: Source, processor: Any) -> ConversationDataset:
    """The stage's conversations, ready for the Trainer.

    Raises:
        DataError: a conversation is malformed; the message gives file and index.
    """
    return ConversationDataset(
        source.path,
        image_folder=source.images,
        processor=with_aspect_ratio(processor, stage.image_aspect_ratio),
        limit=stage.limit,
        prompt_style=stage.prompt_style,
        max_length=stage.max_length,
    )


def require_usable(datasets: Mapping[str, ConversationDataset]) -> None:
    """Look at every conversation and image before the first step.

    Warns of conversations that have nothing to learn, with their number.

    Args:
        datasets: by the stage's name.

    Raises:
        DataError: the first that cannot be trained with, and how many more were found; or a stage
            in which nothing can be learnt.
    """
    for name, dataset in datasets.items():
        if not len(dataset):
            raise DataError(f"{dataset.path} has no conversations")
        problems = check(dataset, most=_REPORTED)
        fatal = [p for p in problems if p.fatal]
        if fatal:
            more = len(fatal) - 1
            least = "at least " if len(fatal) == _REPORTED else ""
            raise DataError(fatal[0].message + (f" ({least}{more} more like it)" * bool(more)))
        if len(problems) == len(dataset):
            raise DataError(
                f"No conversation of {name} has anything to learn, so it cannot be trained: "
                f"{problems[0].message}"
            )
        if problems:
            warnings.warn(
                f"{len(problems)} of {len(dataset)} conversations of {name} have nothing to learn "
                f"and add nothing to the loss; the first: {problems[0].message}",
                AdaptVisWarning,
                stacklevel=2,
            )


def collator_of(dataset: ConversationDataset) -> Collator:
    """Batches of these conversations, with an image even where all are text alone."""
    return Collator(dataset.processor.tokenizer.pad_token_id, image_tokens=dataset.image_tokens)
