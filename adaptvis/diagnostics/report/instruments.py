"""The instruments of the report: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.amplification import AmplificationResult, measure_amplification
from adaptvis.diagnostics.attention.maps import measure_attention_maps
from adaptvis.diagnostics.attention.measure import measure_attention
from adaptvis.diagnostics.choice import amplification_items, spread
from adaptvis.diagnostics.compression import study_compression
from adaptvis.diagnostics.interchange import measure_interchange
from adaptvis.diagnostics.norms import measure_norms
from adaptvis.diagnostics.permutation import permutation_test
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.probes import DIRECTIONS_FILE, ProbesResult, measure_probes
from adaptvis.diagnostics.results import Result
from adaptvis.diagnostics.rope.measure import measure_rope
from adaptvis.errors import DataError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Part, Sample, Task

__all__ = [
    "ALL_OPTIONS",
    "INSTRUMENTS",
    "STEERING_OPTIONS",
    "TASK_OPTIONS",
    "Instrument",
    "Subject",
]


@dataclass(frozen=True)
class Subject:
    """What an instrument looks at: a model, and questions.

    samples: as many as the instrument asks for, ``count``; empty where it draws its own.
    published: whether the task reads published questions instead of generated ones.
    settings: for ``Result.settings``. folder: where the model's results go.
    earlier: results of the instruments that ran before, by name.
    """

    engine: HFEngine
    task: Task
    samples: list[Sample]
    folder: Path
    config: SteeringConfig | None = None
    part: Part = "test"
    count: int | None = None
    published: bool = False
    batch_size: int = 1
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    earlier: Mapping[str, Result] = field(default_factory=dict)
    progress: Progress = silent

    @property
    def options(self) -> dict[str, Any]:
        """What every instrument takes by these names."""
        names = ("config", "batch_size", "seed", "settings", "progress")
        return {name: getattr(self, name) for name in names}


TASK_OPTIONS = ("task", "data", "part", "limit")
STEERING_OPTIONS = ("preset", "method")
ALL_OPTIONS = (*TASK_OPTIONS, "seed", "batch-size", *STEERING_OPTIONS)
"""The shared options of the subcommands, apart from the model's own."""


@dataclass(frozen=True)
class Instrument:
    """One instrument of the report.

    name: of its section and its files.
    questions: how many of the task it is given; None for instruments with pictures of their own,
        which are given none.
    run: measures a subject.
    draws: whether it draws its questions itself, from ``task`` and ``count``.
    steered: whether it looks at the model under the report's steering.
    needs: instruments whose results it reads.
    command: what follows ``adaptvis diagnose`` to repeat it; its name where empty.
    options: the shared options that this command takes.
    """

    name: str
    questions: int | None
    run: Callable[[Subject], Result]
    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ALL_OPTIONS
    draws: bool = False
    steered: bool = True
    needs: tuple[str, ...] = ()


def _probes(s: Subject) -> ProbesResult:
    return measure_probes(s.engine, directions=s.folder / DIRECTIONS_FILE, **s.options)


def _amplification(s: Subject) -> AmplificationResult:
    probes = s.earlier.get("probes")
    if not isinstance(probes, ProbesResult):
        raise DataError("Amplification takes the directions of the probes, which did not finish")
    path = s.folder / DIRECTIONS_FILE
    if probes.settings.get("steering") is not None:
        # Its command fits and amplifies without steering; so does this.
        path = s.folder / "unsteered-directions.safetensors"
        probes = measure_probes(s.engine, directions=path, **replace(s, config=None).options)
    if not probes.directions:
        raise DataError(f"There is nothing to amplify. {probes.without_directions}")
    drawn = amplification_items(
        s.task, part=s.part, limit=s.count or 1, seed=s.seed, published=s.published
    )
    about = {
        "task": drawn.name,
        "part": s.part,
        "images": len({sample.image_id for sample in drawn.samples}),
    }
    return measure_amplification(
        s.engine,
        path,
        s.task,
        drawn.samples,
        items=drawn.items,
        alphas=(1.0, 3.0, 8.0),
        controls=1,
        batch_size=s.batch_size,
        seed=s.seed,
        settings={**s.settings, **about},
        progress=s.progress,
    )


INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("norms", 120, lambda s: measure_norms(s.engine, s.samples, **s.options)),
    Instrument(
        "permutation", 300, lambda s: permutation_test(s.engine, s.task, s.samples, **s.options)
    ),
    Instrument(
        "compression", 300, lambda s: study_compression(s.engine, s.task, s.samples, **s.options)
    ),
    Instrument(
        "attention", 150, lambda s: measure_attention(s.engine, s.task, s.samples, **s.options)
    ),
    Instrument(
        "attention-maps",
        24,
        lambda s: measure_attention_maps(
            s.engine,
            spread(s.samples, 4),
            config=s.config,
            settings=s.settings,
            progress=s.progress,
        ),
        command=("attention",),
    ),
    Instrument(
        "rope",
        150,
        lambda s: measure_rope(
            s.engine, s.samples, config=s.config, settings=s.settings, progress=s.progress
        ),
        options=(*TASK_OPTIONS, "seed", *STEERING_OPTIONS),
    ),
    Instrument(
        "interchange",
        None,
        lambda s: measure_interchange(s.engine, **s.options),
        options=("seed", "batch-size", *STEERING_OPTIONS),
    ),
    Instrument("probes", None, _probes, options=("seed", "batch-size", *STEERING_OPTIONS)),
    Instrument(
        "amplification",
        60,
        _amplification,
        command=("probes", "--amplify", "--alphas", "1,3,8", "--controls", "1"),
        options=(*TASK_OPTIONS, "seed", "batch-size"),
        draws=True,
        steered=False,
        needs=("probes",),
    ),
)
