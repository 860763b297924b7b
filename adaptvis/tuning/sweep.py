"""Ask validation questions once under every coefficient and layer selection of a grid.

Each batch is one engine call: the prefill is shared, and every further setting costs one token.
Everything that is chosen later is chosen from the recorded answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis import __version__
from adaptvis.engine import Engine
from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation.asking import Asker, Request
from adaptvis.evaluation.asking import Outcome as Asked
from adaptvis.evaluation.error_limit import ErrorLimit
from adaptvis.evaluation.questions import draw_questions
from adaptvis.tasks import Part, Prompts, Sample, Task
from adaptvis.tuning.folds import check_images
from adaptvis.tuning.grid import Grid
from adaptvis.tuning.recording import Question, SweepFile

__all__ = ["Outcome", "Sweep", "run_sweep"]

_LIMIT = ErrorLimit()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One graded answer, as a task's metrics see it (:class:`adaptvis.tasks.Answered`)."""

    id: str
    category: str
    answer: str
    gold: tuple[str, ...]
    correct: bool
    strict: bool
    score: float
    tags: dict[str, str]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The answers to every question under every setting of a grid.

    points: what each answer scored, 0 to 1, `[layer selections, alphas, questions]`; alpha = 1 is
        the same in every selection.
    confidence: of the first token, unsteered, `[questions]`.
    images: the picture of each question, for clustering.
    outcomes, codes: the distinct graded answers, and which of them each setting gave, of the shape
        of `points`; None where only points are known, and then only accuracy can be maximised.
    unreadable: how many questions were left out because they could not be asked.
    """

    grid: Grid
    points: NDArray[np.float64]
    confidence: NDArray[np.float64]
    images: tuple[str, ...]
    outcomes: NDArray[np.object_] | None = None
    codes: NDArray[np.intp] | None = None
    unreadable: int = 0

    @classmethod
    def of(cls, grid: Grid, asked: Sequence[Question]) -> "Sweep":
        """Put together what was recorded.

        Raises:
            DataError: no question was answered, too many could not be read, or the model gave no
                finite confidence.
        """
        questions = [question for question in asked if question.error is None]
        unreadable = len(asked) - len(questions)
        first = next((q.error for q in asked if q.error is not None), "there were none")
        if not questions:
            raise DataError(f"None of {len(asked)} questions could be asked; the first: {first}")
        if unreadable > _LIMIT.allowed(len(asked)):
            raise DataError(_too_many(unreadable, len(asked), first))
        confidence = np.array([q.confidence for q in questions], dtype=float)
        if not np.isfinite(confidence).all():
            raise DataError(
                "The model's confidence is not a finite number for some questions; try --dtype "
                "float32"
            )
        outcomes: list[Outcome] = []
        codes = np.empty((*grid.shape, len(questions)), dtype=np.intp)
        for index, q in enumerate(questions):
            codes[:, :, index] = np.array(q.given) + len(outcomes)
            for a in q.answers:
                outcomes.append(
                    Outcome(q.id, q.category, a.text, q.gold, a.correct, a.strict, a.score, q.tags)
                )
        score = np.array([outcome.score for outcome in outcomes])
        table = np.empty(len(outcomes), dtype=object)
        table[:] = outcomes
        images = tuple(q.image_id for q in questions)
        return cls(grid, score[codes], confidence, images, table, codes, unreadable)


def run_sweep(
    load_engine: Callable[[], Engine],
    task: Task,
    grid: Grid,
    output: Path,
    *,
    settings: dict[str, Any] | None = None,
    limit: int | None = None,
    part: Part = "validation",
    prompts: Prompts = "chat",
    batch_size: int = 64,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    fewest_images: int = 1,
) -> Sweep:
    """Answer the questions of a part under the whole grid, and keep the answers in a folder.

    A killed sweep is finished with `resume`; a finished one is read back without the engine, which
    is loaded when the first question is asked. A question whose image cannot be read, or which the
    engine refuses, is recorded with the error; a batch that memory does not suffice for is halved.

    Args:
        output: receives `sweep.json` and `sweep.jsonl`, a line per question, on disk after each
            batch.
        settings: what else decides the answers (model, engine, dtype); compared on resume.
        fewest_images: with fewer nothing is asked.

    Raises:
        ConfigError: the batch size is below 1, or the folder's sweep was another one.
        DataError: the task has no such part or too few images, more than 5 % of its questions
            could not be asked, or the model gave no finite confidence.
        OutputError: the folder holds something and `resume` is off, or cannot be written.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size must be at least 1, got {batch_size}")
    samples, questions = draw_questions(task, limit, part, prompts)
    check_images([sample.image_id for sample in samples], fewest_images)
    identity = {
        **(settings or {}),
        "adaptvis": __version__,
        "task": task.name,
        "source": task.source,
        "max_new_tokens": task.max_new_tokens,
        "questions": questions,
        "part": part,
        "limit": limit,
        "prompts": prompts,
        "batch_size": batch_size,
        "grid": grid.to_dict(),
    }
    with SweepFile(output, identity, [s.id for s in samples], resume=resume) as file:
        errors = _Errors(len(samples), file.questions)
        done = len(file.questions)
        if progress and done:
            progress(done, len(samples))
        if done < len(samples):
            # As an uninterrupted sweep: a model's last digits depend on the rest of the batch.
            start = done - done % batch_size
            configs = (
                None,
                *(grid.config(grid.alphas[a], grid.layers[s]) for s, a in grid.steered()),
            )
            request = Request(configs, task.max_new_tokens, prompts)
            for outcomes in Asker(load_engine(), batch_size).ask(samples[start:], request):
                pairs = list(zip(samples[start : start + len(outcomes)], outcomes, strict=True))
                fresh = [_question(*pair, task, grid) for pair in pairs[max(0, done - start) :]]
                start += len(outcomes)
                if fresh:
                    errors.count(fresh)
                    file.append(fresh)
                    done += len(fresh)
                    if progress:
                        progress(done, len(samples))
        return Sweep.of(grid, file.questions)


class _Errors:
    """Stops a sweep whose questions fail; what was answered before is kept."""

    def __init__(self, questions: int, stored: Sequence[Question]) -> None:
        self._questions = questions
        self._failed = [q.error for q in stored if q.error is not None]

    def count(self, asked: Sequence[Question]) -> None:
        failed = [q.error for q in asked if q.error is not None]
        self._failed += failed
        if failed and len(self._failed) > _LIMIT.allowed(self._questions):
            raise DataError(
                f"{_too_many(len(self._failed), self._questions, self._failed[0])}; mend that and "
                "go on with --resume"
            )


def _too_many(failed: int, questions: int, first: str) -> str:
    return (
        f"{failed} of {questions} questions could not be asked, more than {_LIMIT}; the first: "
        f"{first}"
    )


def _question(sample: Sample, asked: Asked, task: Task, grid: Grid) -> Question:
    if asked.error:
        return Question.unreadable(sample, asked.error)
    neutral, *steered = asked.answers
    finite = math.isfinite(neutral.confidence)
    question = Question.of(sample, neutral.confidence if finite else None)
    grade = partial(task.grade, sample)
    first = question.add(neutral.text, grade)
    question.given = [[first] * len(grid.alphas) for _ in grid.layers]
    for (selection, alpha), answer in zip(grid.steered(), steered, strict=True):
        question.given[selection][alpha] = question.add(answer.text, grade)
    return question
