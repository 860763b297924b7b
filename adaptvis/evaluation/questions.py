"""The questions of a run: which ones of a task, in which order, and what identifies them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from adaptvis.errors import ConfigError
from adaptvis.evaluation.plan import Plan
from adaptvis.evaluation.shards import shard_of_each
from adaptvis.tasks import Part, Prompts, Sample, Task

__all__ = [
    "Questions",
    "draw_questions",
    "index_ranges",
    "load_questions",
    "run_configuration",
]


@dataclass(frozen=True)
class Questions:
    """The questions of one task.

    samples: those that this run asks; of a shard, its own.
    shards: the shard of each question of the whole run, in its order; all 1 without shards.
    identity: of the whole run, equal for every shard: how many questions, their places among all
        of the task (or of the part, where parts are not drawn from one list), their prompts' hash.
    """

    samples: list[Sample]
    shards: list[int]
    identity: dict[str, Any]


def load_questions(task: Task, plan: Plan) -> Questions:
    """The questions that a plan asks of a task.

    Raises:
        ConfigError: raw prompts are wanted and the task has none.
        DataError: see :meth:`adaptvis.tasks.Task.load`.
    """
    samples, identity = draw_questions(task, plan.limit, plan.part, plan.prompts)
    shards = shard_of_each(samples, plan.shard.of if plan.shard else 1, task.joined_by)
    own = plan.shard.number if plan.shard else 1
    return Questions(
        samples=[s for s, shard in zip(samples, shards, strict=True) if shard == own],
        shards=shards,
        identity=identity,
    )


def draw_questions(
    task: Task, limit: int | None, part: Part, prompts: Prompts
) -> tuple[list[Sample], dict[str, Any]]:
    """The questions of a part, or at most `limit` of them, with their identity.

    Raises:
        ConfigError, DataError: see :func:`load_questions`.
    """
    everything = task.load(None, part)
    samples = replace(task, loader=lambda _: everything).load(limit, part)
    places = _places(task, part, everything)
    return samples, {
        "count": len(samples),
        "indices": index_ranges(places[s.id] for s in samples),
        "prompts_sha256": _prompts_digest(samples, prompts),
    }


def _places(task: Task, part: Part, samples: Sequence[Sample]) -> dict[str, int]:
    """The place of each question, by id: among all of the task's, or else of its part's."""
    among_all = getattr(task, "indices", lambda _: None)(part)
    if among_all is None or len(among_all) != len(samples):
        among_all = range(len(samples))
    return {sample.id: index for sample, index in zip(samples, among_all, strict=True)}


def run_configuration(plan: Plan, questions: dict[str, Questions]) -> dict[str, Any]:
    """The content of `run.json`: the plan, and the identity of its questions by task."""
    return {**plan.to_dict(), "questions": {name: q.identity for name, q in questions.items()}}


def index_ranges(indices: Iterable[int]) -> str:
    """Ascending numbers as short text: `0-4,7` for 0, 1, 2, 3, 4 and 7."""
    ordered = list(indices)
    ends = [i for i, (a, b) in enumerate(pairwise(ordered)) if b != a + 1]
    starts = [0, *(i + 1 for i in ends)] if ordered else []
    stops = [*ends, len(ordered) - 1]
    return ",".join(
        f"{ordered[a]}" if a == b else f"{ordered[a]}-{ordered[b]}"
        for a, b in zip(starts, stops, strict=False)
    )


def _prompts_digest(samples: Sequence[Sample], prompts: Prompts) -> str:
    """SHA-256 of every question's id and prompt, as it is sent, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        prompt = sample.prompt if prompts == "chat" else sample.raw_prompt
        if prompt is None:
            raise ConfigError(
                f"Question {sample.id!r} has no published raw prompt; leave --prompts raw out"
            )
        digest.update(json.dumps([sample.id, prompt]).encode())
    return digest.hexdigest()
