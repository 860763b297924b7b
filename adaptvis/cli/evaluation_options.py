"""The options of `adaptvis eval` as what they stand for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from adaptvis.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from adaptvis.cli.models import Model
    from adaptvis.evaluation.executors import Executor
    from adaptvis.tasks import Task

__all__ = ["batch_size_of", "executor_of", "given", "tasks_of"]

EXECUTORS = ("local", "ray")


def tasks_of(names: "Sequence[str]", **options: str | None) -> "tuple[Task, ...]":
    """The tasks of these names.

    Raises:
        ConfigError, DataError: see :func:`adaptvis.tasks.get_task`.
    """
    from adaptvis.tasks import get_task

    chosen = dict(given(**options))
    # Only what was typed: most tasks come with the package and take none of these.
    find: Callable[..., Task] = get_task
    return tuple(find(name, **chosen) for name in names)


def given(**options: str | None) -> tuple[tuple[str, str], ...]:
    """The options that were typed, with their values."""
    return tuple((name, value) for name, value in options.items() if value is not None)


def batch_size_of(text: str | None, models: "Sequence[Model]") -> int | None:
    """Questions per batch; None finds the size.

    Raises:
        ConfigError: the text is no number, nor auto.
    """
    from adaptvis.cli.models import embedded_models

    if text is None:
        return 300 if all(model.name in embedded_models() for model in models) else None
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--batch-size takes a number or auto, got {text!r}") from None


def executor_of(name: str, ray_address: str | None, workers: int | None) -> "Executor":
    """What runs the models.

    Raises:
        ConfigError: the name is unknown, Ray is missing, or `workers` is not for this executor.
    """
    if name not in EXECUTORS:
        raise ConfigError(unknown_name("executor", name, EXECUTORS))
    if name == "ray":
        from adaptvis.evaluation.executors.ray import RayExecutor

        return RayExecutor(ray_address, workers=workers)
    from adaptvis.evaluation.executors import LocalExecutor

    if workers is not None:
        raise ConfigError("--workers counts the workers of --executor ray; add it, or leave both")
    return LocalExecutor()
