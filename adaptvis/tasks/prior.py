"""2DS with a language prior: scenes whose answers follow, ignore or contradict a fixed table.

The table maps what a question names to an answer. A model that has learned the table as a
shortcut answers `skewed` well without looking, `balanced` by chance and `conflicting` wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adaptvis.tasks.base import Part, Sample, Task
from adaptvis.tasks.generated import task_samples

if TYPE_CHECKING:
    from adaptvis.data.samples import Sample as DataSample

__all__ = ["PRIOR_TASKS"]

Split = Literal["balanced", "conflicting", "skewed"]

# Thresholds chosen on a few hundred questions do not carry over; validation gets more.
_QUESTIONS: dict[Part, int] = {"validation": 3000, "test": 1500}


def _category(sample: DataSample) -> str:
    """What is asked; how the question names its objects does not matter to the prior."""
    return f"{sample.category.rpartition('_')[2]} {sample.kind.replace('_', '/')}"


def _task(split: Split, description: str) -> Task:
    def load(part: Part) -> list[Sample]:
        from adaptvis.data.prior import generate_prior

        parts: tuple[Literal["validation", "test"], ...] = (
            ("validation", "test") if part == "all" else (part,)
        )
        samples = [
            sample
            for one in parts
            for sample in generate_prior(split=split, part=one, count=_QUESTIONS[one])
        ]
        return task_samples(samples, _category)

    return Task(
        name=f"2ds-prior-{split}",
        description=description,
        loader=load,
        source=f"adaptvis.data.prior {split}, seed 0, {_QUESTIONS}",
    )


PRIOR_TASKS = (
    _task("balanced", "the prior is right at chance: 1 in 4 where-questions, 1 in 2 yes/no"),
    _task("conflicting", "the prior's answer is always wrong"),
    _task("skewed", "the prior's answer is always right, as in the shortcut model's training"),
)
