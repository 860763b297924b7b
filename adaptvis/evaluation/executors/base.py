"""What a run needs of the place where its engines run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from adaptvis.engine import Engine
from adaptvis.evaluation.asking import Outcome, Request
from adaptvis.tasks import Sample

__all__ = ["Executor"]


class Executor(Protocol):
    """Holds one model at a time and answers questions with it, in their order."""

    def open(self, load: Callable[[], Engine], batch_size: int | None) -> None:
        """Load a model, after letting go of the one before.

        Args:
            batch_size: questions per batch; None finds one.
        """
        ...

    def ask(self, samples: Sequence[Sample], request: Request) -> Iterator[list[Outcome]]:
        """One outcome per sample, in the order of the samples, as they become known."""
        ...

    def describe(self) -> dict[str, str]:
        """What the engine says of itself, with the batch size, for `summary.json`."""
        ...

    def close(self) -> None:
        """Let go of the model; a second call changes nothing."""
        ...
