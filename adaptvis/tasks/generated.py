"""Samples of the synthetic data sets as task samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from PIL.Image import Image

from adaptvis.tasks.base import Sample

if TYPE_CHECKING:
    from adaptvis.data.samples import Sample as DataSample

__all__ = ["task_samples"]


def task_samples(
    samples: Iterable[DataSample], category: Callable[[DataSample], str] = lambda s: s.category
) -> list[Sample]:
    """Convert; the question is sent as it is, without a format suffix (as 2DS is evaluated)."""
    return [
        Sample(
            id=s.id,
            prompt=s.question,
            images=partial(_one, s.image),
            gold=(s.answer,),
            category=category(s),
            image_id=s.image_id,
            candidates=s.candidates,
            object_count=s.object_count,
            agrees_with_prior=s.agrees,
            asked_boxes=s.asked,
        )
        for s in samples
    ]


def _one(image: Image) -> tuple[Image, ...]:
    return (image,)
