"""Ask every question of every task to every model, once per method, and write the records.

Records are written in one fixed order, batch after batch, and methods of a batch share one
prefill. A resumed run drops an incomplete last batch and asks it again with the same batch
boundaries, so that an interrupted run ends in exactly the records of an uninterrupted one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from adaptvis.engine import Engine
from adaptvis.errors import DataError
from adaptvis.evaluation.output import RECORDS, check_output, prepare_output
from adaptvis.evaluation.plan import ModelPlan, Plan
from adaptvis.evaluation.records import Record, RecordFile
from adaptvis.tasks import Prompts, Sample, Task

__all__ = ["Run", "evaluate"]

Progress = Callable[[str, str, int, int], None]
"""Called with model, task, questions done, questions in all."""


class Run(NamedTuple):
    """Records of a finished run, and what each engine said of itself, by model name.

    A model whose records were all there before needed no engine and has no description.
    """

    records: list[Record]
    engines: dict[str, dict[str, str]]


class _Batch(NamedTuple):
    model: ModelPlan
    task: Task
    samples: list[Sample]
    done: int
    total: int

    def keys(self) -> list[tuple[str, str, str, str]]:
        return [
            (self.model.name, self.task.name, sample.id, method.name)
            for sample in self.samples
            for method in self.model.methods
        ]


def evaluate(
    plan: Plan,
    load_engine: Callable[[ModelPlan], Engine],
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the plan and write `run.json` and `records.jsonl` to the folder `output`.

    The output is checked and every sample is loaded before the first engine is.

    Raises:
        OutputError, ConfigError: see :func:`adaptvis.evaluation.output.prepare_output`.
        DataError: a task cannot be loaded, or the records to resume are of another run.
    """
    check_output(output, resume=resume)
    samples = {task.name: task.load(plan.limit, plan.part) for task in plan.tasks}
    prepare_output(output, plan.to_dict(), resume=resume)
    engines: dict[str, dict[str, str]] = {}
    loaded: tuple[str, Engine] | None = None
    with RecordFile(output / RECORDS) as file:
        batches = list(_batches(plan, samples))
        finished = _resume_point(file, batches)
        for index, batch in enumerate(batches):
            if index >= finished:
                if loaded is None or loaded[0] != batch.model.name:
                    loaded = None  # lets go of the last model's memory first
                    loaded = (batch.model.name, load_engine(batch.model))
                    description = {**loaded[1].describe(), "model": batch.model.name}
                    engines[batch.model.name] = description
                file.append(_ask(loaded[1], batch, plan.prompts))
            if progress:
                done = batch.done + len(batch.samples)
                progress(batch.model.name, batch.task.name, done, batch.total)
        return Run(list(file.records), engines)


def _batches(plan: Plan, samples: dict[str, list[Sample]]) -> Iterator[_Batch]:
    for model in plan.models:
        for task in plan.tasks:
            of_task = samples[task.name]
            for start in range(0, len(of_task), plan.batch_size):
                part = of_task[start : start + plan.batch_size]
                yield _Batch(model, task, part, start, len(of_task))


def _resume_point(file: RecordFile, batches: list[_Batch]) -> int:
    """How many batches are complete on disk; an incomplete one behind them is dropped."""
    kept = 0
    for index, batch in enumerate(batches):
        keys = batch.keys()
        found = [r.key for r in file.records[kept : kept + len(keys)]]
        if found != keys[: len(found)]:
            raise DataError(
                f"{file.path} does not hold the records of this run in their order; choose "
                "another --output"
            )
        if len(found) < len(keys):
            file.keep(kept)
            return index
        kept += len(keys)
    if kept < len(file.records):
        raise DataError(
            f"{file.path} holds more records than this run has; choose another --output"
        )
    return len(batches)


def _ask(engine: Engine, batch: _Batch, prompts: Prompts) -> list[Record]:
    answers = engine.answer(
        [sample.query(prompts) for sample in batch.samples],
        [method.config for method in batch.model.methods],
        max_new_tokens=batch.task.max_new_tokens,
    )
    return [
        Record.of(
            sample,
            answers[m][s],
            batch.task.grade(sample, answers[m][s].text),
            task=batch.task.name,
            model=batch.model.name,
            method=method.name,
        )
        for s, sample in enumerate(batch.samples)
        for m, method in enumerate(batch.model.methods)
    ]
