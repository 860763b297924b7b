"""The chosen settings on the test part: what they gain where they were not chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptvis.engine import Engine
from adaptvis.errors import ConfigError
from adaptvis.evaluation import ModelPlan, Plan, Record, evaluate
from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import jackknife_gain
from adaptvis.evaluation.output import RECORDS
from adaptvis.evaluation.statistics import Gain, paired_gain
from adaptvis.tasks import Task
from adaptvis.tuning.objective import ACCURACY

__all__ = ["HeldOut", "held_out_gains", "run_held_out"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One method on the test part. Fractions.

    value: of the objective that the settings were chosen for. gain: of it, over the baseline; None
    for the baseline itself.
    """

    method: str
    objective: str
    questions: int
    accuracy: float
    value: float
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
            return [r for r in run.records if not getattr(r, "error", "")], output
        except ConfigError:
            # Another plan's run, unless the folder is fresh and the plan itself is wrong.
            if not (output / RECORDS).is_file():
                raise
        number += 1
        output = folder / f"test-{number}"


def held_out_gains(
    records: Sequence[Record], task: Task, objective: str = ACCURACY, *, seed: int = 0
) -> list[HeldOut]:
    """Every method of some records of one model and task, with its gain over the first one."""
    methods: dict[str, list[Record]] = {}
    for record in records:
        methods.setdefault(record.method, []).append(record)
    baseline = next(iter(methods.values()))
    return [
        HeldOut(
            method=name,
            objective=objective,
            questions=len(own),
            accuracy=sum(r.score for r in own) / len(own),
            value=_value(own, task, objective),
            gain=None if own is baseline else _gain(own, baseline, task, objective, seed),
        )
        for name, own in methods.items()
    ]


def _value(records: Sequence[Record], task: Task, objective: str) -> float:
    if objective == ACCURACY or task.metrics is None:
        return sum(r.score for r in records) / len(records)
    return float(task.metrics(records)[objective])


def _gain(
    treated: Sequence[Record], reference: Sequence[Record], task: Task, objective: str, seed: int
) -> Gain:
    images = [r.image_id for r in treated]
    if objective == ACCURACY:
        ours, theirs = [r.score for r in treated], [r.score for r in reference]
        return paired_gain(ours, theirs, images, seed=seed)
    metrics = task.metrics
    assert metrics is not None
    return jackknife_gain(
        lambda answers: float(metrics(answers)[objective]),
        treated,
        reference,
        clusters_of(treated, images, task.joined_by),
        seed=seed,
    )
