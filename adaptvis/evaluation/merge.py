"""Put the shards of a run together: the records of an unsharded run, in its order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation.output import (
    RECORDS,
    RUN,
    SUMMARY,
    check_output,
    differences,
    placeless,
    prepare_output,
)
from adaptvis.evaluation.plan import Plan
from adaptvis.evaluation.questions import Questions, load_questions, run_configuration
from adaptvis.evaluation.records import Record, RecordFile, StoredRecords, iterate_records
from adaptvis.evaluation.runner import Run
from adaptvis.evaluation.shards import Shard, shard_of_each

__all__ = ["merge"]

_CHUNK = 1000


def merge(plan: Plan, folders: Sequence[Path], output: Path, *, resume: bool = False) -> Run:
    """Write the records of all shards of `plan` to the folder `output`, as one run.

    Args:
        plan: that of the shards, without a shard.
        folders: one per shard, in any order.

    Raises:
        ConfigError: a folder holds a shard of another run.
        DataError: a shard is missing, given twice, or not complete.
        OutputError: see :func:`adaptvis.evaluation.output.prepare_output`.
    """
    if plan.shard:
        raise ConfigError("--merge puts all shards together; leave --shard out")
    check_output(output, resume=resume)
    questions = {task.name: load_questions(task, plan) for task in plan.tasks}
    configuration = run_configuration(plan, questions)
    shards = _shards(folders, configuration)
    # Once to check everything before anything is written.
    count = sum(len(records) for records in _in_order(plan, questions, shards))
    prepare_output(output, configuration, resume=resume)
    with RecordFile(output / RECORDS) as file:
        file.keep(0)
        merged = _in_order(plan, questions, shards)
        while chunk := list(islice(merged, _CHUNK)):
            file.append(record for records in chunk for record in records)
    samples = {name: of_task.samples for name, of_task in questions.items()}
    return Run(StoredRecords(output / RECORDS, count), _engines(folders), configuration, samples)


def _shards(folders: Sequence[Path], configuration: Mapping[str, Any]) -> dict[int, Path]:
    """The folder of each shard, by number."""
    found: dict[int, Path] = {}
    parts = 0
    for folder in folders:
        try:
            stored = json.loads((folder / RUN).read_text(encoding="utf-8"))
            shard = Shard.parse(stored["shard"])
            theirs, ours = (placeless(c) | {"shard": None} for c in (stored, configuration))
            changes = differences(theirs, ours)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"The folder {folder} holds no shard: a {RUN} of `adaptvis eval --shard` is "
                "expected there"
            ) from None
        if changes:
            raise ConfigError(
                f"The shard in {folder} is of another run ({'; '.join(changes)}); repeat the "
                "options of the shards"
            )
        if shard.number in found or shard.of != (parts or shard.of):
            raise DataError(
                f"The folder {folder} holds shard {shard} next to "
                f"{', '.join(f'{n}/{parts}' for n in found)}; give each shard of one run once"
            )
        found[shard.number], parts = folder, shard.of
    if missing := [f"{n}/{parts}" for n in range(1, parts + 1) if n not in found]:
        raise DataError(f"The shards {', '.join(missing)} are missing; give --merge all {parts}")
    return found


def _in_order(
    plan: Plan, questions: Mapping[str, Questions], shards: Mapping[int, Path]
) -> Iterator[list[Record]]:
    """Every question's records in the order of an unsharded run."""
    streams = {number: iterate_records(path / RECORDS) for number, path in shards.items()}
    for model in plan.models:
        for task in plan.tasks:
            samples = questions[task.name].samples
            numbers = shard_of_each(samples, len(shards), task.joined_by)
            for sample, number in zip(samples, numbers, strict=True):
                records = list(islice(streams[number], len(model.methods)))
                wanted = [(model.name, task.name, sample.id, m.name) for m in model.methods]
                keys = [record.key for record in records]
                if keys == wanted:
                    yield records
                elif keys == wanted[: len(keys)]:
                    raise DataError(
                        f"The shard in {shards[number]} is not complete; finish it with --resume"
                    )
                else:
                    raise _foreign(shards[number])
    for number, stream in streams.items():
        if next(stream, None) is not None:
            raise _foreign(shards[number])


def _foreign(folder: Path) -> DataError:
    return DataError(
        f"{folder / RECORDS} does not hold the records of its shard in their order; run the shard "
        "again"
    )


def _engines(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """What the shards' engines said of themselves; values that differ side by side."""
    merged: dict[str, dict[str, list[str]]] = {}
    for folder in folders:
        try:
            engines = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["engines"]
        except (OSError, ValueError, KeyError):
            continue
        for name, engine in engines.items():
            for key, value in engine.items():
                values = merged.setdefault(name, {}).setdefault(key, [])
                if value not in values:
                    values.append(value)
    return {
        name: {key: ", ".join(values) for key, values in engine.items()}
        for name, engine in merged.items()
    }
