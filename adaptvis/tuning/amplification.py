"""Choose the alpha of an amplification on validation questions, beside random directions.

The same rules as for attention steering (:mod:`adaptvis.tuning.select`): of all alphas within one
standard error of the best the smallest, 0 among them; five-fold cross-validation over pictures; and
kept only where the out-of-fold gain is reliable. Random directions of the same number and norms go
through the same choice, so that their out-of-fold gain is what choosing alone can make of noise.
No prefill is shared: every alpha costs whole answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adaptvis.config import Amplify
from adaptvis.engine import Engine
from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation import Method, ModelPlan, Plan, Record, evaluate
from adaptvis.evaluation.statistics import RELIABLE_GAIN, Gain, paired_gain
from adaptvis.steering.amplification import AMPLIFICATION_ALPHAS
from adaptvis.steering.directions import control_directions
from adaptvis.tasks import Part, Prompts, Task
from adaptvis.tuning.folds import check_images
from adaptvis.tuning.held_out import HeldOut, held_out_gains, run_held_out
from adaptvis.tuning.ladder import Ladder
from adaptvis.tuning.store import gain_values, merge_presets

__all__ = [
    "AmplificationPlan",
    "AmplificationTuned",
    "tune_amplification",
]

PRESET = "amplify"


@dataclass(frozen=True)
class AmplificationPlan:
    """What to tune, on what.

    directions: a file that ``adaptvis diagnose probes`` wrote. controls: sets of random directions,
        with seeds from 0 on. The rest is as for :class:`adaptvis.tuning.run.TuningPlan`.
    """

    model: str
    source: str
    task: Task
    directions: Path
    alphas: tuple[float, ...] = AMPLIFICATION_ALPHAS
    axes: tuple[str, ...] | None = None
    controls: int = 2
    part: Part = "validation"
    limit: int | None = None
    test: bool = True
    test_limit: int | None = None
    prompts: Prompts = "chat"
    batch_size: int = 64
    seed: int = 0
    always_steer: bool = False
    settings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.alphas or self.controls < 1:
            raise ConfigError(
                "Tuning an amplification needs at least one alpha above 0 and one control"
            )
        object.__setattr__(self, "alphas", tuple(sorted(set(self.alphas))))

    def config(self, directions: Path, alpha: float) -> Amplify:
        return Amplify(directions=str(directions), alpha=alpha, axes=self.axes)


@dataclass(frozen=True)
class AmplificationTuned:
    """What came of it. Fractions.

    chosen: the setting, or None where its gain is not reliable. ladders: the probe's directions,
        then the controls. gain: out of fold, over no amplification; control_gains: of the
        controls, through the same choice. over_controls: the probe's out-of-fold points over the
        mean of the controls'. held_out: on the test part.
    """

    chosen: Amplify | None
    ladders: tuple[Ladder, ...]
    gain: Gain
    control_gains: tuple[Gain, ...]
    over_controls: Gain
    held_out: list[HeldOut]
    warnings: list[str]
    folder: Path


def tune_amplification(
    plan: AmplificationPlan,
    load_engine: Callable[[], Engine],
    folder: Path,
    *,
    resume: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> AmplificationTuned:
    """Tune, and write records, `adaptvis.json` and, if one was chosen, `amplify.yaml`.

    Args:
        resume: finish the validation answers in the folder, or choose again from finished ones.

    Raises:
        ConfigError, DataError, OutputError: see :func:`adaptvis.evaluation.evaluate`; a task with
            fewer than ten validation pictures; directions that cannot be read.
    """
    files = {PRESET: plan.directions}
    files |= {f"random {n}": control_directions(plan.directions, n) for n in range(plan.controls)}
    engine = cache(load_engine)
    methods = (
        Method("baseline"),
        *(
            Method(f"{name} alpha={alpha:g}", plan.config(path, alpha))
            for name, path in files.items()
            for alpha in plan.alphas
        ),
    )
    asked = plan.task.load(plan.limit, plan.part)
    check_images([sample.image_id for sample in asked])
    run = evaluate(
        _plan(plan, methods, plan.part, plan.limit),
        lambda _: engine(),
        folder / "validation",
        resume=resume,
        progress=_named(progress, f"{len(methods)} settings"),
    )
    ladders = _ladders(list(run.records), list(files), plan.alphas)
    probe, *controls = ladders
    images = list(probe.images)
    own = probe.out_of_fold(seed=plan.seed)
    theirs = [control.out_of_fold(seed=plan.seed) for control in controls]
    gain = paired_gain(own, probe.points[0], images, seed=plan.seed)
    control_gains = tuple(
        paired_gain(points, probe.points[0], images, seed=plan.seed) for points in theirs
    )
    over = paired_gain(own, np.mean(theirs, axis=0), images, seed=plan.seed)

    index = probe.choose(np.arange(len(images)), always_steer=plan.always_steer)
    kept = plan.always_steer or (gain.verdict == RELIABLE_GAIN and index > 0)
    alpha = probe.alphas[index] if kept else None
    chosen = None if alpha is None else plan.config(plan.directions, alpha)
    warnings = _warnings(chosen, gain, over)
    found: dict[str, Any] = {
        "model": plan.model,
        "task": plan.task.name,
        "source": plan.task.source,
        "part": plan.part,
        "questions": len(images),
        "alphas": list(probe.alphas),
        "validation_accuracy": {
            ladder.name: [float(value) for value in ladder.points.mean(axis=1)]
            for ladder in ladders
        },
        "out_of_fold_gain": gain_values(gain),
        "control_out_of_fold_gains": [gain_values(value) for value in control_gains],
        "gain_over_controls": gain_values(over),
        "kept": kept,
        "warnings": warnings,
        **dict(plan.settings),
    }
    # Before the test too: what was found must not be lost if the test fails.
    merge_presets(folder, {PRESET: chosen}, PRESET, found, yaml=True)
    held_out: list[HeldOut] = []
    if chosen is not None and plan.test and plan.part == "validation":
        tested = (
            Method("baseline"),
            Method(PRESET, chosen),
            Method("random", plan.config(files["random 0"], chosen.alpha)),
        )
        records, _ = run_held_out(
            _plan(plan, tested, "test", plan.test_limit),
            lambda _: engine(),
            folder,
            (lambda done, total: progress("test part", done, total)) if progress else None,
        )
        if records:
            held_out, problems = held_out_gains(records, plan.task, seed=plan.seed)
            warnings += problems
        found["test"] = [
            asdict(line) | {"gain": None if line.gain is None else gain_values(line.gain)}
            for line in held_out
        ]
        merge_presets(folder, {PRESET: chosen}, PRESET, found, yaml=True)
    return AmplificationTuned(
        chosen, tuple(ladders), gain, control_gains, over, held_out, warnings, folder
    )


def _plan(
    plan: AmplificationPlan, methods: tuple[Method, ...], part: Part, limit: int | None
) -> Plan:
    return Plan(
        models=(ModelPlan(plan.model, plan.source, methods),),
        tasks=(plan.task,),
        batch_size=plan.batch_size,
        limit=limit,
        part=part,
        seed=plan.seed,
        prompts=plan.prompts,
        settings=plan.settings,
    )


def _ladders(
    records: Sequence[Record], names: Sequence[str], alphas: Sequence[float]
) -> list[Ladder]:
    """Points of each set of directions; questions that could not be asked are left out."""
    scores: dict[str, dict[str, float]] = {}
    images: dict[str, str] = {}
    for record in records:
        if not record.error:
            scores.setdefault(record.method, {})[record.id] = record.score
            images[record.id] = record.image_id
    if not images:
        raise DataError("None of the questions could be asked; their records say why")
    order = list(images)

    def points(method: str) -> list[float]:
        return [scores[method][question] for question in order]

    return [
        Ladder(
            name,
            (0.0, *alphas),
            np.array([points("baseline"), *(points(f"{name} alpha={a:g}") for a in alphas)]),
            tuple(images.values()),
        )
        for name in names
    ]


def _warnings(chosen: Amplify | None, gain: Gain, over: Gain) -> list[str]:
    if chosen is None:
        return [
            f"amplification is not kept: its out-of-fold gain is {100 * gain.mean:+.1f} points "
            f"({gain.verdict}); --always-steer chooses an alpha all the same"
        ]
    if over.verdict != RELIABLE_GAIN:
        return [
            "amplification is not reliably better than random directions of the same norms "
            f"({100 * over.mean:+.1f} points, {over.verdict}), so the places that the probes read "
            "may not be the reason"
        ]
    return []


def _named(
    progress: Callable[[str, int, int], None] | None, name: str
) -> Callable[[str, str, int, int], None] | None:
    return None if progress is None else lambda _m, _t, done, total: progress(name, done, total)
