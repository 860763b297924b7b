"""Where an interrupted run stopped: whole questions count, whatever the batches were."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from adaptvis.errors import DataError
from adaptvis.evaluation.plan import Plan
from adaptvis.evaluation.records import RecordFile
from adaptvis.tasks import Sample

__all__ = ["Point", "resume_points"]


class Point(NamedTuple):
    """How far one model got in one task: questions recorded, and how many of them failed."""

    done: int = 0
    errors: int = 0
    first_error: str = ""


def resume_points(
    file: RecordFile, plan: Plan, samples: Mapping[str, Sequence[Sample]]
) -> dict[tuple[str, str], Point]:
    """How far every model got in every task; a question without all its methods is dropped.

    Raises:
        DataError: the file holds something else than the beginning of this run.
    """
    stored = file.stored()
    points: dict[tuple[str, str], Point] = {}
    kept, torn = 0, False
    for model in plan.models:
        methods = [method.name for method in model.methods]
        for task in plan.tasks:
            done, errors, first_error = 0, 0, ""
            for sample in samples[task.name]:
                found = [] if torn else list(islice(stored, len(methods)))
                wanted = [(model.name, task.name, sample.id, method) for method in methods]
                if [record.key for record, _ in found] != wanted[: len(found)]:
                    raise DataError(
                        f"{file.path} does not hold the records of this run in their order; "
                        "choose another --output"
                    )
                if len(found) < len(methods):
                    torn = True
                    break
                kept = found[-1][1]
                done += 1
                if error := found[0][0].error:
                    errors += 1
                    first_error = first_error or error
            points[model.name, task.name] = Point(done, errors, first_error)
    if torn:
        file.keep(kept)
    elif next(stored, None) is not None:
        raise DataError(
            f"{file.path} holds more records than this run has; choose another --output"
        )
    return points
