"""Run instruments on a model; one that fails does not take the others with it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.prefill import askable, fitting_batch, silent
from adaptvis.diagnostics.report.instruments import INSTRUMENTS, Instrument, Subject
from adaptvis.diagnostics.results import Result, write_result
from adaptvis.errors import AdaptVisError, OutputError
from adaptvis.evaluation.report.text import one_line
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Part, Task

__all__ = ["Examined", "Outcome", "examine", "with_needed"]

ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """One instrument on one model: a result, or the sentence that says why there is none.

    command: how to repeat it.
    """

    instrument: str
    command: str
    result: Result | None = None
    problem: str = ""


@dataclass(frozen=True)
class Examined:
    """A model and what every instrument said of it; engine is empty where it was not loaded."""

    model: str
    engine: dict[str, str]
    outcomes: list[Outcome]


def examine(
    model: str,
    load: Callable[[], HFEngine],
    task: Task,
    folder: Path,
    *,
    command: Callable[[Instrument, int | None], str],
    instruments: Sequence[Instrument] = INSTRUMENTS,
    config: SteeringConfig | None = None,
    part: Part = "test",
    published: bool = False,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    outcomes: list[Outcome] | None = None,
    progress: ReportProgress = silent,
) -> Examined:
    """Run every instrument on its own number of questions, and write each result at once.

    Args:
        load: gives the engine; it is dropped at the end.
        folder: where each result's JSON, Parquet and PNG go.
        command: from an instrument and its number of questions to how it is repeated.
        instruments: those that one of them needs run before it, and are added where they miss.
        published: whether the task reads published questions instead of generated ones.
        outcomes: a list that is filled as instruments finish, for callers that want those of an
            interrupted run.
        batch_size: questions at once; None takes what fits the model.
        limit: questions for each instrument that takes some, in place of its own number.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError, DataError: the task has no such questions, or too many that cannot be asked.
    """
    instruments = with_needed(instruments)
    counts = {
        i.name: i.questions if limit is None or i.questions is None else limit for i in instruments
    }
    wanted = {counts[i.name] for i in instruments if not i.draws}
    drawn = {count: task.load(count, part) for count in wanted if count is not None}
    repeat = {i.name: command(i, counts[i.name]) for i in instruments}
    try:
        engine = load()
    except AdaptVisError as error:
        lost = [Outcome(i.name, repeat[i.name], None, str(error)) for i in instruments]
        return Examined(model, {}, lost)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write the results into {folder}: {error.strerror}; give another folder"
        ) from None
    drawn = {count: askable(engine, samples) for count, samples in drawn.items()}
    outcomes = [] if outcomes is None else outcomes
    earlier: dict[str, Result] = {}
    for instrument in instruments:
        count = counts[instrument.name]
        samples = [] if count is None or instrument.draws else drawn[count]
        settings: dict[str, Any] = {"model": model, "seed": seed}
        if samples:
            settings |= {
                "task": task.name,
                "part": part,
                "questions": len(samples),
                "images": len({sample.image_id for sample in samples}),
            }
        under = config if instrument.steered else None
        settings["steering"] = None if under is None else under.to_dict()

        def show(doing: str, done: int, total: int, name: str = instrument.name) -> None:
            progress(name if doing == name else f"{name}: {doing}", done, total)

        subject = Subject(
            engine=engine,
            task=task,
            samples=samples,
            folder=folder,
            config=config,
            part=part,
            count=count,
            published=published,
            batch_size=batch_size or fitting_batch(engine),
            seed=seed,
            settings=settings,
            earlier=dict(earlier),
            progress=show,
        )
        outcome = _attempt(instrument, subject, repeat[instrument.name])
        outcomes.append(outcome)
        if outcome.result is not None:
            earlier[instrument.name] = outcome.result
        # A subject holds the model.
        del subject
    description = engine.describe()
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Examined(model, description, outcomes)


def with_needed(instruments: Sequence[Instrument]) -> list[Instrument]:
    """The instruments, each behind those whose results it reads."""
    known = {instrument.name: instrument for instrument in (*INSTRUMENTS, *instruments)}
    chosen: dict[str, Instrument] = {}
    for instrument in instruments:
        for name in instrument.needs:
            chosen.setdefault(name, known[name])
        chosen.setdefault(instrument.name, instrument)
    return list(chosen.values())


def _attempt(instrument: Instrument, subject: Subject, repeat: str) -> Outcome:
    try:
        result = instrument.run(subject)
        write_result(result, subject.folder)
    except OutputError:
        raise
    except Exception as problem:  # Whatever it is, the other instruments are worth having.
        known = isinstance(problem, AdaptVisError)
        sentence = str(problem) if known else f"{type(problem).__name__}: {problem}"
        return Outcome(instrument.name, repeat, None, one_line(sentence, 600))
    return Outcome(instrument.name, repeat, result)
