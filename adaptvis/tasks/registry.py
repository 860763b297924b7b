"""Tasks by name, or by the path of a local file."""

from pathlib import Path

from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.tasks.base import Task
from adaptvis.tasks.custom import custom_task
from adaptvis.tasks.prior import PRIOR_TASKS
from adaptvis.tasks.two_ds import TWO_DS, two_ds_from_parquet

__all__ = ["TASKS", "get_task"]

TASKS: dict[str, Task] = {task.name: task for task in (TWO_DS, *PRIOR_TASKS)}

_FILES = {".jsonl": custom_task, ".parquet": two_ds_from_parquet}


def get_task(name: str) -> Task:
    """The task of that name, or the one in a `.jsonl` or `.parquet` (2DS) file.

    Raises:
        ConfigError: no task has that name; the message lists them.
        DataError: the name is a path and there is no such file.
    """
    if name in TASKS:
        return TASKS[name]
    path = Path(name)
    if path.suffix not in _FILES:
        hint = "(or give the path of a .jsonl or a 2DS .parquet file)"
        raise ConfigError(unknown_name("task", name, TASKS, hint))
    if not path.is_file():
        raise DataError(f"The task file {path} does not exist")
    try:
        return _FILES[path.suffix](path)
    except OSError as error:
        raise DataError(f"The task file {path} cannot be read: {error.strerror}") from None
