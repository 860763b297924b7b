"""Trying configurations: inject one, check what it compiles to and computes, time it."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from adaptvis_kernels.configs import configuration
from adaptvis_kernels.device_check.correctness import poison
from adaptvis_kernels.device_check.timing import measure

from kernel_bench.candidates import Task, tasks
from kernel_bench.problem import Problem

# A candidate must be this much faster than the current configuration to replace it.
WORTH = 0.02


@dataclass(frozen=True)
class Outcome:
    """microseconds: one per shape and variant; none where the candidate was dropped, ``why``."""

    values: dict[str, int]
    microseconds: tuple[float, ...]
    why: str = ""

    @property
    def score(self) -> float:
        """Mean logarithm of the times: every shape counts the same."""
        if not self.microseconds:
            return math.inf
        return sum(map(math.log, self.microseconds)) / len(self.microseconds)


@contextmanager
def injected(task: Task, values: dict[str, int]) -> Iterator[tuple[list[Any], list[str]]]:
    """Let the launcher find ``values`` for the task's key; gives compiled kernels and keys used.

    Launchers look ``configuration`` and ``launch`` up in their own module at every call, so those
    two names are replaced there: the cache of configurations and the package stay as they are.
    """
    module: Any = importlib.import_module(f"adaptvis_kernels.ops.{task.op}.{task.module}")
    configuration, launch = module.configuration, module.launch
    compiled: list[Any] = []
    keys: list[str] = []

    def inject(op: str, key: str, architecture: str) -> dict[str, int]:
        keys.append(key)
        return values if key == task.key else configuration(op, key, architecture)

    def keep(
        kernel: Any,
        grid: tuple[int, ...],
        *,
        device: torch.device,
        num_warps: int,
        num_stages: int,
        **arguments: Any,
    ) -> None:
        if 0 in grid:
            return
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            compiled.append(kernel[grid](num_warps=num_warps, num_stages=num_stages, **arguments))

    module.configuration, module.launch = inject, keep
    try:
        yield compiled, keys
    finally:
        module.configuration, module.launch = configuration, launch


def attempt(
    task: Task, problems: Sequence[Problem], values: dict[str, int], device: torch.device
) -> Outcome:
    """Check and time one candidate on every shape; the first failure drops it.

    What runs with the same configuration and is not timed is checked on the first shape.
    """
    times: list[float] = []
    for problem in problems:
        timed = task.chosen(problem)
        only_checked = task.checked(problem) if problem is problems[0] else []
        for variant in [*timed, *only_checked]:
            with injected(task, values) as (compiled, keys):
                try:
                    calls = variant.calls()
                    poison(calls[0]())
                    error = variant.error(calls[0]())
                    # Of Triton's compiled kernel, read from the device; the interpreter has none.
                    spills = max((getattr(one, "n_spills", 0) or 0 for one in compiled), default=0)
                    if task.key not in keys:
                        raise LookupError(f"{problem.shape} uses {sorted(set(keys))}")
                    if spills:
                        return Outcome(values, (), f"{variant.name}: spills {spills} registers")
                    if not error <= variant.limit:
                        return Outcome(values, (), f"{variant.name}: wrong, error {error:.1e}")
                    if variant in timed:
                        times.append(measure(calls, device).median)
                except LookupError:
                    raise
                except Exception as problem_found:
                    text = str(problem_found).strip().split("\n")[0][:120]
                    return Outcome(values, (), f"{type(problem_found).__name__}: {text}")
    return Outcome(values, tuple(times))


def tune(task: Task, architecture: str, device: torch.device) -> list[Outcome]:
    """Outcomes of all candidates, the current configuration's first."""
    problems = [build(device) for build in task.problems]
    current = configuration(task.op, task.key, architecture)
    return [attempt(task, problems, values, device) for values in task.candidates(current)]


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The fastest; the first, the current configuration, unless another is clearly faster."""
    current = outcomes[0]
    fastest = min(outcomes, key=lambda outcome: outcome.score)
    if not fastest.microseconds:
        return None
    return fastest if fastest.score < current.score + math.log(1 - WORTH) else current


def configuration_file(op: str, architecture: str) -> Path:
    package = importlib.import_module("adaptvis_kernels")
    return Path(str(package.__file__)).parent / "ops" / op / "configs" / f"{architecture}.json"


def write_configurations(path: Path, chosen: dict[str, dict[str, int]], source: str) -> None:
    """Put ``chosen`` into the file, made by ``source``; other keys of the file stay."""
    old: dict[str, Any] = {"source": "", "configurations": {}}
    if path.is_file():
        old = json.loads(path.read_text())
    untouched = [key for key in old["configurations"] if key not in chosen]
    if untouched and old["source"] != source:
        source = f"{source}: {', '.join(chosen)}; the others: {old['source']}"
    merged = {**old["configurations"], **chosen}
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(merged[key])}" for key in merged)
    path.write_text(
        f'{{\n  "source": {json.dumps(source)},\n  "configurations": {{\n{lines}\n  }}\n}}\n'
    )


def compile_candidate(
    op: str, key: str, values: dict[str, int], device: torch.device, smoke: bool
) -> None:
    """Launch one candidate of a task once, so that the compiler's work is on the disk.

    For a process of its own: :func:`attempt` in another one then finds everything compiled, and its
    times are not disturbed. What goes wrong shows there, too.
    """
    task = next(task for task in tasks(smoke=smoke) if (task.op, task.key) == (op, key))
    with suppress(Exception):
        for problem in _problems(op, key, device, smoke):
            for variant in [*task.chosen(problem), *task.checked(problem)]:
                with injected(task, values):
                    variant.calls()[0]()


@lru_cache(maxsize=1)
def _problems(op: str, key: str, device: torch.device, smoke: bool) -> list[Problem]:
    task = next(task for task in tasks(smoke=smoke) if (task.op, task.key) == (op, key))
    return [build(device) for build in task.problems]
