"""The chosen settings on the test part: what they gain where they were not chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from adaptvis.engine import Engine
from adaptvis.errors import DataError, OtherRunError
from adaptvis.evaluation import ModelPlan, Plan, Record, evaluate
from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import jackknife_gain
from adaptvis.evaluation.statistics import Gain, paired_gain
from adaptvis.tasks import Task
from adaptvis.tuning.objective import ACCURACY, metric_value

__all__ = ["HeldOut", "held_out_gains", "run_held_out"]

Number = TypeVar("Number", float, Gain)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One method on the test part. Fractions.

    value: of the objective that the settings were chosen for; None where it is not defined for
        the questions. gain: of it, over the baseline; None for the baseline itself, and where it
        is not defined for some of the questions, without which its interval is not known.
    """

    method: str
    objective: str
    questions: int
    accuracy: float
    value: float | None
    gain: Gain | None


def run_held_out(
    plan: Plan,
    load_engine: Callable[[ModelPlan], Engine],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Record], Path]:
    """Evaluate the plan in `folder/test`, or the next free `test-2`, `test-3`, ...

    A run of the same plan is resumed there, or read back where it is finished.
    """
    number, output = 1, folder / "test"
    while True:
        try:
            run = evaluate(
                plan,
                load_engine,
                output,
                resume=True,
                progress=(lambda _m, _t, done, all_: progress(done, all_)) if progress else None,
            )
            return [r for r in run.records if not r.error], output
        except OtherRunError:
            # Only a folder that holds answers is another run's, so a fresh one ends this.
            number += 1
            output = folder / f"test-{number}"


def held_out_gains(
    records: Sequence[Record], task: Task, objective: str = ACCURACY, *, seed: int = 0
) -> tuple[list[HeldOut], list[str]]:
    """Every method of some records of one model and task, with its gain over the first one.

    Returns:
        The methods, and why the objective or its gain is missing, as sentences; accuracy is there
        in any case.
    """
    methods: dict[str, list[Record]] = {}
    for record in records:
        methods.setdefault(record.method, []).append(record)
    baseline = next(iter(methods.values()))
    problems: list[str] = []

    def tried(wanted: Callable[[], Number]) -> Number | None:
        try:
            return wanted()
        except DataError as problem:
            problems.append(f"on the test part, {problem}")
            return None

    lines = []
    for name, own in methods.items():
        value = tried(partial(_value, own, task, objective))
        gain = None
        if own is not baseline and value is not None:
            gain = tried(partial(_gain, own, baseline, task, objective, seed))
        accuracy = sum(r.score for r in own) / len(own)
        lines.append(HeldOut(name, objective, len(own), accuracy, value, gain))
    return lines, list(dict.fromkeys(problems))


def _value(records: Sequence[Record], task: Task, objective: str) -> float:
    if objective == ACCURACY or task.metrics is None:
        return sum(r.score for r in records) / len(records)
    return metric_value(objective, task.metrics, records)


def _gain(
    treated: Sequence[Record], reference: Sequence[Record], task: Task, objective: str, seed: int
) -> Gain:
    images = [r.image_id for r in treated]
    if objective == ACCURACY or task.metrics is None:
        ours, theirs = [r.score for r in treated], [r.score for r in reference]
        return paired_gain(ours, theirs, images, seed=seed)
    return jackknife_gain(
        partial(metric_value, objective, task.metrics),
        treated,
        reference,
        clusters_of(treated, images, task.joined_by),
        seed=seed,
    )
