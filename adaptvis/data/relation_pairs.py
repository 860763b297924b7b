"""Relations of 2DS asked both ways: strict scoring counts an item only if both answers are right.

Dual Mechanisms scores an item as right only if it is under both orders of its two options, so that
a constant answer earns nothing and guessing 25 %.
"""

from __future__ import annotations

import random

from adaptvis.data.questions import questions_about
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import Part, check_part, random_scene, render
from adaptvis.errors import DataError

__all__ = ["relation_pairs"]


def relation_pairs(part: Part = "test", count: int = 100, seed: int = 0) -> list[Sample]:
    """``count`` items of two yes/no questions each, one after the other, one item per picture.

    Both are about the same two objects: first the relation that holds, then its opposite, as in
    "Is the red object above the blue object?" and "Is the red object below the blue object?". The
    same arguments give the same samples.

    Raises:
        DataError: unknown part, or a count below 1.
    """
    check_part(part)
    if count < 1:
        raise DataError(f"The number of items must be at least 1, got {count}")
    rng = random.Random(f"relation pairs/{part}/{seed}")
    samples: list[Sample] = []
    while len(samples) < 2 * count:
        scene = random_scene(rng, rng.choice((2, 3, 4)), part)
        options = questions_about(scene, "color_relative", "yes_no")
        if not options:
            continue
        # Questions come in pairs: what holds, and its opposite.
        first = 2 * rng.randrange(len(options) // 2)
        image_id = f"relation-pair-{part}-{seed}-{len(samples) // 2:05d}"
        picture = render(scene)
        samples += [
            Sample(
                id=f"{image_id}-{question.answer}",
                image_id=image_id,
                image=picture,
                question=question.text,
                answer=question.answer,
                category=question.category,
                kind=question.kind,
                object_count=len(scene.objects),
                candidates=question.candidates,
            )
            for question in options[first : first + 2]
        ]
    return samples
