"""What a task is: named samples with a rule that grades answers."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from PIL.Image import Image

from adaptvis.engine import Query
from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.tasks.grading import Grade, grade

__all__ = ["PARTS", "Part", "Sample", "Task"]

Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one or more images.

    images: opens the images; called when the question is asked, so that a large task does not
        hold every picture in memory.
    gold: all accepted answers.
    candidates: the answers that the question allows; empty for an open question.
    image_id: questions with the same id share their picture; intervals are clustered by it.
    agrees_with_prior: whether a language prior alone would answer rightly, where that is known.
    """

    id: str
    prompt: str
    images: Callable[[], tuple[Image, ...]]
    gold: tuple[str, ...]
    category: str
    image_id: str
    candidates: tuple[str, ...] = ()
    object_count: int | None = None
    agrees_with_prior: bool | None = None

    @property
    def query(self) -> Query:
        """The sample as an engine takes it."""
        return Query(prompt=self.prompt, images=self.images())


@dataclass(frozen=True)
class Task:
    """A benchmark: where its samples come from, and how answers to them are graded.

    loader: all samples of a part, always in the same order.
    source: where the samples come from, as text that changes when they do; part of a run's
        identity, so that an evaluation cannot be resumed on other data.
    max_new_tokens: enough for any right answer.
    """

    name: str
    description: str
    loader: Callable[[Part], list[Sample]]
    source: str = ""
    max_new_tokens: int = 16

    def load(self, limit: int | None = None, part: Part = "test") -> list[Sample]:
        """The samples of a part, or `limit` of them from images drawn with a fixed seed.

        A limit takes all questions of an image before the next one, so intervals stay honest, and
        draws images at random, because files tend to be sorted by difficulty or kind.

        Raises:
            ConfigError: unknown part, or a limit below 1.
            DataError: the task has no such samples, or two with one id.
        """
        if part not in PARTS:
            raise ConfigError(unknown_name("part", part, PARTS))
        if limit is not None and limit < 1:
            raise ConfigError(f"The limit must be at least 1 question, got {limit}")
        samples = _limited(self.loader(part), limit)
        if not samples:
            raise DataError(f"Task {self.name!r} has no questions in its {part} part")
        identifier, count = Counter(s.id for s in samples).most_common(1)[0]
        if count > 1:
            raise DataError(f"Task {self.name!r} has {count} questions with the id {identifier!r}")
        return samples

    def grade(self, sample: Sample, text: str) -> Grade:
        """Free and strict correctness of an answer, by the rule grader."""
        return grade(text, sample.gold, sample.candidates)


def _limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    if limit is None or limit >= len(samples):
        return samples
    images = list(dict.fromkeys(s.image_id for s in samples))
    sizes = Counter(s.image_id for s in samples)
    chosen: set[str] = set()
    questions = 0
    for image in random.Random(0).sample(images, len(images)):
        if questions >= limit:
            break
        chosen.add(image)
        questions += sizes[image]
    return [s for s in samples if s.image_id in chosen][:limit]
