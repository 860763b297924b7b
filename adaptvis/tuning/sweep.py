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
from adaptvis.engine import Answer, Engine
from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation.questions import draw_questions
from adaptvis.tasks import Part, Prompts, Sample, Task
from adaptvis.tuning.grid import Grid
from adaptvis.tuning.recording import Question, SweepFile

__all__ = ["Outcome", "Sweep", "run_sweep"]

_MOST_UNREADABLE = 0.05


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
    unreadable: how many questions were left out because an image could not be read.
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
        if unreadable > _MOST_UNREADABLE * len(asked) or not questions:
            first = next((q.error for q in asked if q.error is not None), "none was asked")
            raise DataError(
                f"{unreadable} of {len(asked)} questions could not be asked, more than "
                f"{_MOST_UNREADABLE:.0%}; the first: {first}"
            )
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
) -> Sweep:
    """Answer the questions of a part under the whole grid, and keep the answers in a folder.

    A killed sweep is finished with `resume`; a finished one is read back without the engine, which
    is loaded when the first question is asked.

    Args:
        output: receives `sweep.json` and `sweep.jsonl`, a line per question, on disk after each
            batch.
        settings: what else decides the answers (model, engine, dtype); compared on resume.

    Raises:
        ConfigError: the batch size is below 1, or the folder's sweep was another one.
        DataError: the task has no such part, or the model gave no finite confidence.
        OutputError: the folder holds something and `resume` is off, or cannot be written.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size must be at least 1, got {batch_size}")
    samples, questions = draw_questions(task, limit, part, prompts)
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
    engine: Engine | None = None
    with SweepFile(output, identity, [s.id for s in samples], resume=resume) as file:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            if start + len(batch) > len(file.questions):
                file.keep(start)
                engine = engine or load_engine()
                file.append(_ask(engine, task, grid, batch, prompts))
            if progress:
                progress(start + len(batch), len(samples))
        return Sweep.of(grid, file.questions)


def _ask(
    engine: Engine, task: Task, grid: Grid, batch: Sequence[Sample], prompts: Prompts
) -> list[Question]:
    queries, problems = {}, {}
    for index, sample in enumerate(batch):
        try:
            queries[index] = sample.query(prompts)
        except DataError as problem:
            problems[index] = str(problem)
    steered = list(grid.steered())
    configs = [None, *(grid.config(grid.alphas[a], grid.layers[s]) for s, a in steered)]
    answers: list[list[Answer]] = [[] for _ in configs]
    if queries:
        answers = engine.answer(list(queries.values()), configs, max_new_tokens=task.max_new_tokens)
    column = {index: position for position, index in enumerate(queries)}
    questions = []
    for index, sample in enumerate(batch):
        if index in problems:
            questions.append(Question.unreadable(sample, problems[index]))
            continue
        own = [of_config[column[index]] for of_config in answers]
        question = Question.of(sample, own[0].confidence)
        given = [[0] * len(grid.alphas) for _ in grid.layers]
        grade = partial(task.grade, sample)
        first = question.add(own[0].text, grade)
        for row in given:
            row[grid.neutral] = first
        for (selection, alpha), answer in zip(steered, own[1:], strict=True):
            given[selection][alpha] = question.add(answer.text, grade)
        question.given = given
        if not math.isfinite(question.confidence or math.nan):
            question.confidence = None
        questions.append(question)
    return questions
