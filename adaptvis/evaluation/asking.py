"""Ask an engine in batches: one question's failure stays its own, too large a batch is halved."""

import gc
import sys
import warnings
from asyncio import CancelledError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptvis.config import SteeringConfig
from adaptvis.engine import Answer, Engine, Query
from adaptvis.errors import AdaptVisError, AdaptVisWarning, DataError, PromptError
from adaptvis.tasks import Prompts, Sample

__all__ = ["Asker", "Outcome", "Request", "failure_sentence", "first_batch_size"]

_LONGEST_ERROR = 500
_INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's answers, one per configuration; or why there are none, as a sentence."""

    answers: tuple[Answer, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """How questions are asked: what is the same for all questions of a task."""

    configs: tuple[SteeringConfig | None, ...]
    max_new_tokens: int = 16
    prompts: Prompts = "chat"


@dataclass(frozen=True, slots=True)
class _Failure:
    sentence: str
    out_of_memory: bool


class Asker:
    """An engine with the batch size that fits it.

    Args:
        batch_size: questions per batch; None begins with :func:`first_batch_size`. Either is
            halved when memory does not suffice, and stays so.
    """

    def __init__(self, engine: Engine, batch_size: int | None = None) -> None:
        self.engine = engine
        self.batch_size = batch_size or first_batch_size(engine)

    def ask(self, samples: Sequence[Sample], request: Request) -> Iterator[list[Outcome]]:
        """The outcomes of the samples in their order, batch after batch.

        Raises:
            ConfigError: the engine cannot follow a configuration: no question's own failure.
        """
        start = 0
        while start < len(samples):
            batch = samples[start : start + self.batch_size]
            outcomes = self._batch(batch, request)
            if outcomes is None:
                self.batch_size = len(batch) // 2
                warnings.warn(
                    f"Memory did not suffice for {len(batch)} questions at once; going on with "
                    f"{self.batch_size}",
                    AdaptVisWarning,
                    stacklevel=2,
                )
                continue
            start += len(batch)
            yield outcomes

    def _batch(self, samples: Sequence[Sample], request: Request) -> list[Outcome] | None:
        """None where memory does not suffice for more than one question."""
        try:
            queries = [_query(sample, request.prompts) for sample in samples]
        except MemoryError as problem:
            return None if len(samples) > 1 else [Outcome(error=failure_sentence(problem))]
        readable = [query for query in queries if isinstance(query, Query)]
        asked = self._try(readable, request) if readable else []
        if isinstance(asked, _Failure) and len(readable) > 1:
            if asked.out_of_memory:
                return None
            asked = [self._one(query, request) for query in readable]
        elif isinstance(asked, _Failure):
            asked = [Outcome(error=asked.sentence)]
        outcomes = iter(asked)
        return [next(outcomes) if isinstance(q, Query) else Outcome(error=q) for q in queries]

    def _one(self, query: Query, request: Request) -> Outcome:
        asked = self._try([query], request)
        return Outcome(error=asked.sentence) if isinstance(asked, _Failure) else asked[0]

    def _try(self, queries: Sequence[Query], request: Request) -> list[Outcome] | _Failure:
        try:
            answers = self.engine.answer(
                queries, request.configs, max_new_tokens=request.max_new_tokens
            )
        except BaseException as problem:
            failure = _Failure(failure_sentence(problem), _is_out_of_memory(problem))
        else:
            return [
                Outcome(tuple(of_config[index] for of_config in answers))
                for index in range(len(queries))
            ]
        # Only out here are the traceback's frames gone, and with them the batch's tensors.
        if failure.out_of_memory:
            _free_memory()
        return failure


def first_batch_size(engine: Engine) -> int:
    """A guess that most models of 7 billion parameters survive; vLLM schedules for itself."""
    description = engine.describe()
    if description.get("engine") == "vllm":
        return 256
    return 64 if description.get("device", "").startswith("cuda") else 16


def _query(sample: Sample, prompts: Prompts) -> Query | str:
    """The sample with its pictures decoded, or the sentence that says why they cannot be."""
    try:
        return sample.query(prompts)
    except MemoryError:
        raise
    except BaseException as problem:
        return failure_sentence(problem)


def failure_sentence(problem: BaseException) -> str:
    """Why one question could not be asked, for what processors, templates and models raise.

    They are foreign code: any kind of exception, and of a tokenizer in Rust a panic, which is none
    of Exception's.

    Raises:
        BaseException: the problem itself, where it is no question's own: an interruption, or what
            adaptvis refuses on purpose and would refuse for every other question, too.
    """
    refused = isinstance(problem, AdaptVisError) and not isinstance(
        problem, PromptError | DataError
    )
    if refused or isinstance(problem, _INTERRUPTIONS):
        raise problem
    # Half a character, as of a file name in another encoding, could not be written to a record.
    text = str(problem).encode(errors="backslashreplace").decode()
    text = " ".join(text.split()) or "no reason given"
    if not isinstance(problem, AdaptVisError):
        text = f"{type(problem).__name__}: {text}"
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"


def _is_out_of_memory(problem: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError that says so, like those of cuDNN and cuBLAS.
    text = str(problem).lower()
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError)
        and any(t in text for t in ("out of memory", "can't allocate memory", "alloc_failed"))
    )


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
