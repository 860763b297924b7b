"""The report of a finished run, from its folder alone; pictures are reopened from the task."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from adaptvis.attention_map import (
    AnswerKey,
    AttentionMap,
    pack_attention_maps,
    read_attention_maps,
)
from adaptvis.errors import AdaptVisError, ConfigError, DataError
from adaptvis.evaluation.output import RECORDS, RUN, write_atomically
from adaptvis.evaluation.records import Record, read_records
from adaptvis.evaluation.report.document import write_report
from adaptvis.evaluation.report.examples import PER_DIRECTION
from adaptvis.evaluation.summary import read_summary
from adaptvis.tasks import TASKS, Sample, Task, get_task

__all__ = ["ATTENTION", "Reopened", "rebuild_report", "write_attention"]

ATTENTION = "attention.safetensors"
"""The attention maps of the shown examples, where an evaluation made them."""


def write_attention(folder: Path, maps: Mapping[AnswerKey, AttentionMap]) -> Path:
    """Keep the maps of the shown examples with the run.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / ATTENTION
    write_atomically(path, pack_attention_maps(maps))
    return path


def rebuild_report(
    folder: Path,
    *,
    tasks: Iterable[Task] = (),
    data: str | None = None,
    examples: int = PER_DIRECTION,
) -> Path:
    """Write `report.html` again from `run.json`, `summary.json` and `records.jsonl`.

    Args:
        tasks: where to reopen pictures; others are looked up by the names in `run.json`.
        data: where the published files are; by default where `run.json` says.
        examples: shown per model, task, method and direction.

    Raises:
        DataError: the folder does not hold a finished run of this version.
        OutputError: the report cannot be written.
    """
    run = _read_run(folder)
    summary, engines = read_summary(folder)
    records = read_records(folder / RECORDS)
    try:
        return write_report(
            folder,
            summary,
            records,
            run=run,
            engines=engines,
            open_pictures=Reopened(run, tasks, data=data),
            attention=read_attention_maps(folder / ATTENTION),
            examples=examples,
        )
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"{folder / RUN} is not the configuration of a run; evaluate again into another folder"
        ) from None


class Reopened:
    """Opens the pictures of a record's question from its task, which is loaded when first needed.

    Args:
        run: the content of `run.json`; a task whose data has changed since is not used.
        tasks: by object; others are looked up by name, with the data and split of the run.
        data: in place of the run's.
    """

    def __init__(
        self, run: Mapping[str, Any], tasks: Iterable[Task] = (), *, data: str | None = None
    ) -> None:
        self._given = {task.name: task for task in tasks}
        self._sources = {task["name"]: task.get("source") for task in run.get("tasks", ())}
        self._part = run.get("part", "test")
        # Only what was given: other tasks take none of these.
        options = {"data": data or run.get("data"), "split": run.get("split")}
        self._options = {name: value for name, value in options.items() if value is not None}
        self._samples: dict[str, Callable[[str], Sample]] = {}

    def __call__(self, record: Record) -> tuple[Image, ...]:
        """The images, in their order.

        Raises:
            AdaptVisError: the task or an image is not there any more; one sentence.
        """
        return self.sample(record.task, record.id).images()

    def sample(self, task: str, identifier: str) -> Sample:
        """The question of that id.

        Raises:
            AdaptVisError: it cannot be found.
        """
        if task not in self._samples:
            self._samples[task] = self._load(task)
        return self._samples[task](identifier)

    def _load(self, name: str) -> Callable[[str], Sample]:
        try:
            look_up: Callable[..., Task] = get_task
            task = self._given.get(name) or look_up(name, **self._options)
            if self._sources.get(name) not in (None, task.source):
                raise DataError(f"the data of task {name!r} is not what the run was asked with")
            samples = {sample.id: sample for sample in task.load(None, self._part)}
        except ConfigError as error:
            if name in TASKS:
                return _refusing(str(error))
            problem = f"task {name!r} is not known by that name; name its file with --task"
            return _refusing(problem)
        except AdaptVisError as error:
            return _refusing(str(error))

        def find(identifier: str) -> Sample:
            if identifier not in samples:
                raise DataError(f"task {name!r} has no question {identifier!r} any more")
            return samples[identifier]

        return find


def _refusing(problem: str) -> Callable[[str], Sample]:
    def refuse(identifier: str) -> Sample:
        raise DataError(problem)

    return refuse


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"{folder} is not the folder of a run: it has no {RUN}; give the --output of adaptvis "
            "eval"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(run, dict):
        raise DataError(f"{path} must hold an object, got {type(run).__name__}")
    return run
