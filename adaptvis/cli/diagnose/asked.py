"""The options of every instrument that asks a task's questions, typed once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DataOption,
    DtypeOption,
    LimitOption,
    MethodOption,
    ModelOption,
    OutputOption,
    PartOption,
    PresetOption,
    SeedOption,
    TaskOption,
    TrustRemoteCodeOption,
    check_numbers,
    load,
    questions,
    result_folder,
    steering,
    task_of,
)

if TYPE_CHECKING:
    from adaptvis.config import SteeringConfig
    from adaptvis.hf.engine import HFEngine
    from adaptvis.tasks import Sample, Task

__all__ = ["Asked", "Work", "asks_questions"]


@dataclass(frozen=True)
class Work:
    """What such an instrument needs.

    folder: where the results go.
    settings: what decided the questions and the steering, for ``Result.settings``.
    """

    engine: "HFEngine"
    task: "Task"
    samples: "list[Sample]"
    config: "SteeringConfig | None"
    batch_size: int
    folder: Path
    settings: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The options as they were typed."""

    model: ModelOption = DEFAULT_MODEL
    task: TaskOption = "2ds"
    data: DataOption = None
    part: PartOption = "test"
    limit: LimitOption = 200
    seed: SeedOption = 0
    batch_size: BatchSizeOption = None
    preset: PresetOption = None
    method: MethodOption = None
    dtype: DtypeOption = "auto"
    trust_remote_code: TrustRemoteCodeOption = False
    output: OutputOption = None

    def prepare(self, *instruments: str) -> Work:
        """The model, the questions and the steering that were asked for; cheap checks come first.

        Args:
            instruments: names of the results that will be written.

        Raises:
            AdaptVisError: an option is wrong, or the model or the task cannot be loaded.
        """
        from adaptvis.cli.models import check_engine, resolve_model
        from adaptvis.diagnostics.prefill import askable, fitting_batch

        check_engine("hf", self.dtype)
        check_numbers(self.seed, self.batch_size)
        config = steering(self.model, preset=self.preset, method=self.method)
        task = task_of(self.task, self.data)
        drawn = questions(task, part=self.part, limit=self.limit)
        folder = result_folder(self.output, *instruments)
        engine = load(self.model, dtype=self.dtype, trust_remote_code=self.trust_remote_code)
        samples = askable(engine, drawn)
        settings = {
            "model": resolve_model(self.model).name,
            "task": task.name,
            "part": self.part,
            "questions": len(samples),
            "images": len({sample.image_id for sample in samples}),
            "seed": self.seed,
            "steering": None if config is None else config.to_dict(),
        }
        size = self.batch_size or fitting_batch(engine)
        return Work(engine, task, samples, config, size, folder, settings)


def asks_questions(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Any]:
    """Let a command take an :class:`Asked` first, and typer its fields as options.

    Args:
        without: fields that this command does not offer.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(Asked, include_extras=True)
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(Asked)
            if field.name not in without
        ]
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(command).parameters.values())[1:]
        ]
        names = [parameter.name for parameter in shared]

        @functools.wraps(command)
        def typed(**options: Any) -> None:
            command(Asked(**{name: options.pop(name) for name in names}), **options)

        # What typer reads; both, because it looks up the annotations by name.
        typed.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        typed.__annotations__ = {p.name: p.annotation for p in (*shared, *own)}
        return typed

    return decorate
