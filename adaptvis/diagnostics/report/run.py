"""Run instruments on a model; one that fails does not take the others with it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.prefill import silent
from adaptvis.diagnostics.report.instruments import INSTRUMENTS, Instrument, Subject
from adaptvis.diagnostics.results import Result, write_result
from adaptvis.errors import AdaptVisError, OutputError
from adaptvis.evaluation.report.text import one_line
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Part, Task

__all__ = ["Examined", "Outcome", "examine"]

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
    limit: int | None = None,
    batch_size: int = 1,
    seed: int = 0,
    progress: ReportProgress = silent,
) -> Examined:
    """Run every instrument on its own number of questions, and write each result at once.

    Args:
        load: gives the engine; it is dropped at the end.
        folder: where each result's JSON, Parquet and PNG go.
        command: from an instrument and its number of questions to how it is repeated.
        limit: questions for each instrument that takes some, in place of its own number.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError, DataError: the task has no such questions.
    """
    counts = {
        i.name: i.questions if limit is None or i.questions is None else limit for i in instruments
    }
    drawn = {count: task.load(count, part) for count in set(counts.values()) if count is not None}
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
    outcomes = []
    for instrument in instruments:
        count = counts[instrument.name]
        samples = [] if count is None else drawn[count]
        settings: dict[str, Any] = {"model": model, "seed": seed}
        if samples:
            settings |= {
                "task": task.name,
                "part": part,
                "questions": len(samples),
                "images": len({sample.image_id for sample in samples}),
            }
        settings["steering"] = None if config is None else config.to_dict()

        def show(doing: str, done: int, total: int, name: str = instrument.name) -> None:
            progress(name if doing == name else f"{name}: {doing}", done, total)

        subject = Subject(
            engine, task, samples, folder, config, batch_size, seed, settings, progress=show
        )
        outcomes.append(_attempt(instrument, subject, repeat[instrument.name]))
    description = engine.describe()
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Examined(model, description, outcomes)


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
