"""A whole tuning: sweep, choice, presets, plot, and the chosen settings on the test part."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adaptvis.engine import Engine
from adaptvis.errors import DataError
from adaptvis.evaluation import Method, ModelPlan, Plan
from adaptvis.evaluation.plan import fingerprint
from adaptvis.tasks import Part, Prompts, Task
from adaptvis.tuning.advice import advice
from adaptvis.tuning.folds import FEWEST_IMAGES
from adaptvis.tuning.grid import Grid
from adaptvis.tuning.held_out import HeldOut, held_out_gains, run_held_out
from adaptvis.tuning.luck import luck_of
from adaptvis.tuning.objective import ACCURACY, Accuracy, Metric, check_objective, objective_for
from adaptvis.tuning.plots import plot_search
from adaptvis.tuning.select import Selection, select
from adaptvis.tuning.store import found_by, gain_values, preset_names, store_presets
from adaptvis.tuning.sweep import Outcome, Sweep, run_sweep

__all__ = ["PLOT", "Tuned", "TuningPlan", "tune"]

PLOT = "tuning.png"

Progress = Callable[[str, int, int], None]
"""Called with what is being asked, questions done, questions in all."""


@dataclass(frozen=True)
class TuningPlan:
    """What to tune, on what, for what.

    model: a short name; source: its folder or hub id. settings: how its engine is loaded.
    part: to choose on; the settings are measured on the test part only if that is another one.
    test: whether they are measured at all, on at most test_limit questions.
    """

    model: str
    source: str
    task: Task
    grid: Grid
    objective: str = ACCURACY
    part: Part = "validation"
    limit: int | None = None
    test: bool = True
    test_limit: int | None = None
    prompts: Prompts = "chat"
    batch_size: int = 64
    seed: int = 0
    always_steer: bool = False
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tuned:
    """What came of it. held_out: baseline, ScalingVis and AdaptVis on the test part, if asked for.

    warnings: plain sentences. folder: holds everything.
    """

    sweep: Sweep
    objective: Accuracy | Metric
    selection: Selection
    held_out: list[HeldOut]
    warnings: list[str]
    folder: Path


def tune(
    plan: TuningPlan,
    load_engine: Callable[[], Engine],
    folder: Path,
    *,
    resume: bool = False,
    also_store_in: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tune, and write everything to a folder; the engine is loaded when it is first needed.

    Args:
        resume: finish the sweep in the folder, or choose again from a finished one.
        also_store_in: another folder for `adaptvis.json`, usually the model's.

    Raises:
        ConfigError, DataError, OutputError: see :func:`run_sweep`, :func:`select` and
            :func:`adaptvis.evaluation.evaluate`.
    """
    _check_objective(plan)
    engine = cache(load_engine)
    sweep = run_sweep(
        engine,
        plan.task,
        plan.grid,
        folder,
        settings={
            "model": plan.model,
            "model_source": plan.source,
            "fingerprint": fingerprint(plan.source),
            **dict(plan.settings),
        },
        limit=plan.limit,
        part=plan.part,
        prompts=plan.prompts,
        batch_size=plan.batch_size,
        resume=resume,
        progress=_named(progress, f"{plan.grid.shape[0]} x {plan.grid.shape[1]} settings"),
        fewest_images=FEWEST_IMAGES,
    )
    objective = objective_for(plan.objective, plan.task, sweep)
    selection = select(sweep, objective, seed=plan.seed, always_steer=plan.always_steer)
    luck = luck_of(sweep, seed=plan.seed)
    found = found_by(selection, sweep, _details(plan) | {"luck": luck.points})

    def store() -> None:
        store_presets(folder, selection, found, yaml=True)
        if also_store_in is not None:
            store_presets(also_store_in, selection, found)

    # Before the test too: what was found must not be lost if the test fails.
    store()
    title = f"{plan.model} on {plan.task.name}"
    plot_search(sweep, selection, objective, folder / PLOT, title)
    held_out, problems = _held_out(plan, selection, engine, folder, progress)
    gains = [(line.method, line.gain) for line in held_out if line.gain is not None]
    warnings = [*advice(sweep, selection, luck, gains), *problems]
    found["warnings"] = warnings
    found["test"] = {
        line.method: {
            "questions": line.questions,
            "accuracy": line.accuracy,
            line.objective: line.value,
        }
        | ({"gain_over_baseline": gain_values(line.gain)} if line.gain else {})
        for line in held_out
    }
    store()
    return Tuned(sweep, objective, selection, held_out, warnings, folder)


def _held_out(
    plan: TuningPlan,
    selection: Selection,
    load_engine: Callable[[], Engine],
    folder: Path,
    progress: Progress | None,
) -> tuple[list[HeldOut], list[str]]:
    """The test part's results, and why there are none."""
    if not plan.test:
        return [], []
    if plan.part != "validation":
        return [], [f"the settings were chosen on part {plan.part}, so no test part was left"]
    names = preset_names(selection)
    methods = (
        Method("baseline"),
        Method(names[0], selection.scaling),
        Method(names[1], selection.adaptvis),
    )
    test_plan = Plan(
        models=(ModelPlan(plan.model, plan.source, methods),),
        tasks=(plan.task,),
        batch_size=plan.batch_size,
        limit=plan.test_limit,
        part="test",
        seed=plan.seed,
        prompts=plan.prompts,
        settings=plan.settings,
    )
    try:
        plan.task.load(1, "test")
    except DataError as problem:
        return [], [f"the settings were not measured on a test part: {problem}"]
    records, _ = run_held_out(
        test_plan, lambda _: load_engine(), folder, _named(progress, "test part")
    )
    if not records:
        return [], ["no question of the test part could be asked; its records say why"]
    return held_out_gains(records, plan.task, plan.objective, seed=plan.seed)


def _check_objective(plan: TuningPlan) -> None:
    """Fail before the sweep rather than after it: what would the metrics of right answers be?"""
    if plan.objective == ACCURACY:
        return
    samples = plan.task.load(plan.limit, plan.part) if plan.task.metrics else []
    right = [
        Outcome(s.id, s.category, s.gold[0], s.gold, True, True, 1.0, dict(s.tags)) for s in samples
    ]
    check_objective(plan.objective, plan.task, right)


def _details(plan: TuningPlan) -> dict[str, Any]:
    return {
        "model": plan.model,
        "task": plan.task.name,
        "source": plan.task.source,
        "part": plan.part,
        "limit": plan.limit,
        "prompts": plan.prompts,
        "seed": plan.seed,
        "always_steer": plan.always_steer,
        **dict(plan.settings),
    }


def _named(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
