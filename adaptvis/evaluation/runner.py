"""Ask every question of every task to every model, once per method, and write the records.

Records are written in one fixed order, question after question with one record per method, so
that neither the batch size nor an interruption shows in them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis.engine import Engine
from adaptvis.errors import DataError
from adaptvis.evaluation.asking import Outcome, Request
from adaptvis.evaluation.error_limit import ErrorLimit
from adaptvis.evaluation.executors import Executor, LocalExecutor
from adaptvis.evaluation.output import RECORDS, check_output, prepare_output
from adaptvis.evaluation.plan import ModelPlan, Plan
from adaptvis.evaluation.questions import load_questions, run_configuration
from adaptvis.evaluation.records import Record, RecordFile, StoredRecords
from adaptvis.evaluation.resume import Point, resume_points
from adaptvis.tasks import Sample, Task

__all__ = ["Progress", "Run", "evaluate"]

Progress = Callable[[str, str, int, int], None]
"""Called with model, task, questions done, questions in all."""


class Run(NamedTuple):
    """A finished run.

    records: in their file, read anew each time they are gone through.
    engines: what each engine said of itself, by model name. A model whose records were all there
        before needed no engine and has no description.
    configuration: the content of `run.json`.
    samples: what was asked, by task name.
    """

    records: StoredRecords
    engines: dict[str, dict[str, str]]
    configuration: dict[str, Any]
    samples: dict[str, list[Sample]]


def evaluate(
    plan: Plan,
    load_engine: Callable[[ModelPlan], Engine],
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    max_errors: ErrorLimit | None = None,
    executor: Executor | None = None,
) -> Run:
    """Run the plan and write `run.json` and `records.jsonl` to the folder `output`.

    The output is checked and every sample is loaded before the first engine is. A question whose
    image cannot be read, or which the engine refuses, is recorded with the error.

    Args:
        max_errors: per model and task; default 5 %.
        executor: where the engines run; default this process.

    Raises:
        OutputError, ConfigError: see :func:`adaptvis.evaluation.output.prepare_output`.
        DataError: a task cannot be loaded, the records to resume are of another run, or more
            questions failed than allowed; what was written until then is kept.
    """
    check_output(output, resume=resume)
    questions = {task.name: load_questions(task, plan) for task in plan.tasks}
    configuration = run_configuration(plan, questions)
    prepare_output(output, configuration, resume=resume)
    samples = {name: of_task.samples for name, of_task in questions.items()}
    engines: dict[str, dict[str, str]] = {}
    written = 0
    with RecordFile(output / RECORDS) as file, closing(executor or LocalExecutor()) as running:
        points = resume_points(file, plan, samples)
        for model in plan.models:
            for task in plan.tasks:
                of_task, point = samples[task.name], points[model.name, task.name]
                errors = _Errors(model, task, len(of_task), max_errors or ErrorLimit(), point)
                done = point.done
                if progress and done:
                    progress(model.name, task.name, done, len(of_task))
                if done < len(of_task) and model.name not in engines:
                    running.open(partial(load_engine, model), plan.batch_size)
                for records in _asked(running, plan, model, task, of_task, done):
                    errors.count(records)
                    file.append(records)
                    done += len(records) // len(model.methods)
                    if progress:
                        progress(model.name, task.name, done, len(of_task))
                    engines[model.name] = {**running.describe(), "model": model.name}
                written += done * len(model.methods)
    return Run(StoredRecords(output / RECORDS, written), engines, configuration, samples)


def _asked(
    executor: Executor,
    plan: Plan,
    model: ModelPlan,
    task: Task,
    samples: Sequence[Sample],
    done: int,
) -> Iterator[list[Record]]:
    """The records of the samples behind the first `done`, batch after batch."""
    if done == len(samples):
        return
    # A model's last digits depend on what else is in the batch. With a batch begun before, the
    # rest comes out as it would have.
    start = done - done % plan.batch_size if plan.batch_size else done
    request = Request(
        tuple(method.config for method in model.methods), task.max_new_tokens, plan.prompts
    )
    for outcomes in executor.ask(samples[start:], request):
        pairs = list(zip(samples[start : start + len(outcomes)], outcomes, strict=True))
        fresh = pairs[max(0, done - start) :]
        start += len(outcomes)
        if fresh:
            yield [r for sample, outcome in fresh for r in _records(sample, outcome, task, model)]


def _records(sample: Sample, outcome: Outcome, task: Task, model: ModelPlan) -> Iterator[Record]:
    for index, method in enumerate(model.methods):
        names = {"task": task.name, "model": model.name, "method": method.name}
        if outcome.error:
            yield Record.failed(sample, outcome.error, **names)
        else:
            answer = outcome.answers[index]
            yield Record.of(sample, answer, task.grade(sample, answer.text), **names)


class _Errors:
    """Counts the questions of one model and task that failed, and stops when they are too many."""

    def __init__(
        self, model: ModelPlan, task: Task, questions: int, limit: ErrorLimit, point: Point
    ) -> None:
        self._model, self._task, self._questions, self._limit = model, task, questions, limit
        self._found, self._first = point.errors, point.first_error

    def count(self, records: Sequence[Record]) -> None:
        failed = [r.error for r in records[:: len(self._model.methods)] if r.error]
        self._found += len(failed)
        self._first = self._first or next(iter(failed), "")
        if failed and self._found > self._limit.allowed(self._questions):
            raise DataError(
                f"{self._found} of the {self._questions} questions of task {self._task.name!r} "
                f"failed with model {self._model.name!r}, more than --max-errors {self._limit} "
                f"allows; mend the data and go on with --resume, or allow more; the first "
                f"error: {self._first}"
            )
