"""What a task is: named samples with a rule that grades answers."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from PIL.Image import Image

from adaptvis.engine import Query
from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.units import size_tag, torn_questions, units_of

__all__ = ["PARTS", "PROMPTS", "Answered", "Part", "Pictures", "Prompts", "Sample", "Task"]

Part = Literal["validation", "test", "all"]
PARTS: tuple[Part, ...] = get_args(Part)

Prompts = Literal["chat", "raw"]
"""Through the model's chat template, or the published text as it is, placeholders included."""
PROMPTS: tuple[Prompts, ...] = get_args(Prompts)


Pictures = Callable[[], tuple[Image, ...]]
"""Opens the images of a question when it is called."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one or more images.

    images: opens the images; called when the question is asked, so that a large task does not
        hold every picture in memory.
    gold: all accepted answers.
    candidates: the answers that the question allows; empty for an open question.
    image_id: questions with the same id share their picture; intervals are clustered by it.
    agrees_with_prior: whether a language prior alone would answer rightly, where that is known.
    raw_prompt: the published prompt with its image placeholder, where one was published.
    tags: what else is known of the question, kept with its records: metrics and tables group by
        it. Values are short texts.
    asked_boxes: where the objects that the question is about are in the first image, (left, top,
        right, bottom) as fractions of it; empty where that is not known.
    """

    id: str
    prompt: str
    images: Pictures
    gold: tuple[str, ...]
    category: str
    image_id: str
    candidates: tuple[str, ...] = ()
    object_count: int | None = None
    agrees_with_prior: bool | None = None
    raw_prompt: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    asked_boxes: tuple[tuple[float, float, float, float], ...] = ()

    def query(self, prompts: Prompts = "chat") -> Query:
        """The sample as an engine takes it.

        Raises:
            ConfigError: the raw prompt is wanted, and none was published.
            DataError: an image cannot be read.
        """
        if prompts == "chat":
            return Query(prompt=self.prompt, images=self.images())
        if self.raw_prompt is None:
            raise ConfigError(
                f"Question {self.id!r} has no published raw prompt; leave --prompts raw out"
            )
        return Query(prompt=self.raw_prompt, images=self.images(), raw=True)


class Answered(Protocol):
    """What a metric sees of an answer; records of an evaluation are such."""

    @property
    def id(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def gold(self) -> tuple[str, ...]: ...
    @property
    def correct(self) -> bool: ...
    @property
    def strict(self) -> bool: ...
    @property
    def score(self) -> float: ...
    @property
    def tags(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Task:
    """A benchmark: where its samples come from, and how answers to them are graded.

    loader: all samples of a part, always in the same order.
    source: where the samples come from, as text that changes when they do; part of a run's
        identity, so that an evaluation cannot be resumed on other data.
    max_new_tokens: enough for any right answer.
    grader: the published rule beside the strict one; the rule grader where None.
    metrics: more than accuracy, by name, from all answers of one method; fractions.
    joined_by: the tag whose questions belong together, because a metric joins them: pairs, sets.
    index_rule: what :meth:`indices` answers.
    """

    name: str
    description: str
    loader: Callable[[Part], list[Sample]]
    source: str = ""
    max_new_tokens: int = 16
    grader: Callable[[Sample, str], Grade] | None = None
    metrics: Callable[[Sequence[Answered]], dict[str, float]] | None = None
    joined_by: str | None = None
    index_rule: Callable[[Part], list[int]] | None = None

    def indices(self, part: Part) -> list[int] | None:
        """Positions of a part's samples among all, ascending.

        None where parts are not drawn from one list: they are generated, or marked in a file.
        """
        return None if self.index_rule is None else self.index_rule(part)

    def load(self, limit: int | None = None, part: Part = "test") -> list[Sample]:
        """The samples of a part, or `limit` of them from images drawn with a fixed seed.

        A limit takes all questions of an image before the next one, so intervals stay honest, and
        draws images at random, because files tend to be sorted by difficulty or kind. Pairs and
        sets are drawn whole: what does not fit is left out, so that there may be fewer questions
        than the limit; only a limit below the size of all of them tears one.

        Raises:
            ConfigError: unknown part, or a limit below 1.
            DataError: the task has no such samples, or two with one id.
        """
        if part not in PARTS:
            raise ConfigError(unknown_name("part", part, PARTS))
        if limit is not None and limit < 1:
            raise ConfigError(f"The limit must be at least 1 question, got {limit}")
        samples = _limited(self._with_sizes(self.loader(part)), limit, self.joined_by)
        if not samples:
            raise DataError(f"Task {self.name!r} has no questions in its {part} part")
        identifier, count = Counter(s.id for s in samples).most_common(1)[0]
        if count > 1:
            raise DataError(f"Task {self.name!r} has {count} questions with the id {identifier!r}")
        return samples

    def torn(self, samples: Sequence[Sample]) -> int:
        """How many of these samples lack a partner: another of their pair or set is not here.

        Args:
            samples: as :meth:`load` gives them.
        """
        if self.joined_by is None:
            return 0
        return torn_questions([sample.tags for sample in samples], self.joined_by)

    def _with_sizes(self, samples: list[Sample]) -> list[Sample]:
        """The samples, tagged with how many questions their pair or set has in the whole task."""
        joined_by = self.joined_by
        if joined_by is None or all(size_tag(joined_by) in s.tags for s in samples):
            return samples
        whole = Counter(s.tags[joined_by] for s in self.loader("all") if joined_by in s.tags)
        return [
            replace(s, tags={**s.tags, size_tag(joined_by): str(whole[s.tags[joined_by]])})
            if joined_by in s.tags
            else s
            for s in samples
        ]

    def grade(self, sample: Sample, text: str) -> Grade:
        """Correctness of an answer under the published rule and the strict one."""
        if self.grader is not None:
            return self.grader(sample, text)
        return grade(text, sample.gold, sample.candidates)


def _limited(samples: list[Sample], limit: int | None, joined_by: str | None) -> list[Sample]:
    if limit is None or limit >= len(samples):
        return samples
    units = units_of([s.image_id for s in samples], [s.tags for s in samples], joined_by)
    sizes = Counter(units)
    chosen: set[int] = set()
    questions = 0
    for unit in random.Random(0).sample(range(len(sizes)), len(sizes)):
        if questions >= limit:
            break
        if joined_by is None or questions + sizes[unit] <= limit or limit < min(sizes.values()):
            chosen.add(unit)
            questions += sizes[unit]
    return [s for s, unit in zip(samples, units, strict=True) if unit in chosen][:limit]
