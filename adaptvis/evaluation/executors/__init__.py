"""Where engines run: in this process, or on the workers of a Ray cluster."""

from adaptvis.evaluation.executors.base import Executor
from adaptvis.evaluation.executors.local import LocalExecutor

__all__ = ["Executor", "LocalExecutor"]
