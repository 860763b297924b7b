"""One engine in this process."""

from collections.abc import Callable, Iterator, Sequence

from adaptvis.engine import Engine
from adaptvis.evaluation.asking import Asker, Outcome, Request
from adaptvis.tasks import Sample

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """See :class:`adaptvis.evaluation.executors.base.Executor`."""

    def __init__(self) -> None:
        self._asker: Asker | None = None

    def open(self, load: Callable[[], Engine], batch_size: int | None) -> None:
        self.close()
        self._asker = Asker(load(), batch_size)

    def ask(self, samples: Sequence[Sample], request: Request) -> Iterator[list[Outcome]]:
        return self._opened.ask(samples, request)

    def describe(self) -> dict[str, str]:
        asker = self._opened
        return {**asker.engine.describe(), "batch_size": str(asker.batch_size)}

    def close(self) -> None:
        self._asker = None

    @property
    def _opened(self) -> Asker:
        if self._asker is None:
            raise RuntimeError("open() comes first")
        return self._asker
