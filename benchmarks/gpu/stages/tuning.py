"""Stage 3: the fastest configurations of the kernels, written where their launchers read them."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from gpu.setting import Setting
from gpu.stage import Judgement, in_turn
from gpu.store import Result

TITLE = "The kernels' configurations, tuned"
MEASURES = (
    "`benchmarks/tune_kernels.py --write`: block sizes, warps and stages per key, on a few shapes "
    "each; candidates that do not compile, spill registers or compute something else are dropped, "
    "and a new one has to be 2 % faster than the shipped one. Chosen ones go into "
    "`kernels/adaptvis_kernels/ops/*/configs`, and copies into `configs` beside this page."
)
NEEDS = ("torch", "triton")
# Its own results change the configurations.
USES_KERNELS, OPTIONAL, TUNED = True, False, False

_SMOKE = ("select_alpha", "rescale_norms")


def _tasks(smoke: bool) -> dict[str, Any]:
    from kernel_bench.candidates import tasks

    return {
        f"{task.op}, {task.key}": task
        for task in tasks(smoke=smoke)
        if not smoke or task.op in _SMOKE
    }


def names(smoke: bool) -> list[str]:
    return list(_tasks(smoke))


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    import torch
    from adaptvis_kernels.device_check import choose_device, jobs_of

    device = choose_device(smoke=setting.smoke)
    everything = _tasks(setting.smoke)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs_of(device), mp_context=spawn) as pool:
        # Graphs cannot be captured on the default stream.
        stream = torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext()
        with stream:
            parts: dict[str, Any] = {
                name: partial(_tune, task, device, setting, pool)
                for name, task in everything.items()
            }
            yield from in_turn(parts, wanted)


def _tune(task: Any, device: Any, setting: Setting, pool: Executor) -> Result:
    import triton
    from adaptvis_kernels.configs import configuration
    from adaptvis_kernels.device_check.machine import device_name
    from adaptvis_kernels.launching import architecture_of
    from kernel_bench.tuning import (
        best,
        compile_candidate,
        configuration_file,
        tune,
        write_configurations,
    )

    architecture = architecture_of(device)
    compile_one = partial(compile_candidate, task.op, task.key, device=device, smoke=setting.smoke)
    candidates = task.candidates(configuration(task.op, task.key, architecture))
    # Without this the candidates are compiled one after another.
    with suppress(BrokenProcessPool):
        list(pool.map(compile_one, candidates))
    outcomes = tune(task, architecture, device)
    chosen = best(outcomes)
    copy = setting.output / "configs" / task.op / f"{architecture}.json"
    if chosen is not None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        source = f"timed on {device_name(device)}, triton {triton.__version__}"
        read_by_launchers = configuration_file(task.op, architecture)
        # A smoke run times nothing, so it chooses nothing that may stay.
        path = copy if setting.smoke else read_by_launchers
        write_configurations(path, {task.key: chosen.values}, source)
        if path != copy:
            shutil.copyfile(path, copy)
    first = outcomes[0]
    return {
        "candidates": len(outcomes),
        "dropped": sum(bool(outcome.why) for outcome in outcomes),
        "current": first.values,
        "current_us": list(first.microseconds),
        "current_problem": first.why,
        "chosen": None if chosen is None else chosen.values,
        "chosen_us": [] if chosen is None else list(chosen.microseconds),
        "outcomes": [[o.values, list(o.microseconds), o.why] for o in outcomes],
        **({"problem": "every candidate was dropped"} if chosen is None else {}),
    }


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    lines = [
        "| kernel, key | candidates | dropped | chosen | time over the shipped one |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        change = "" if smoke or not result["current_us"] else f"{_change(result):.3f}"
        kept = result["chosen"] == result["current"]
        values = (
            "as shipped" if kept else ", ".join(f"{k} {v}" for k, v in result["chosen"].items())
        )
        if result["current_problem"]:
            values += f" (the shipped one: {result['current_problem']})"
        lines.append(
            f"| {name} | {result['candidates']} | {result['dropped']} | {values} | {change} |"
        )
    return [*lines, ""]


def _change(result: Result) -> float:
    """The geometric mean of the times' ratios."""
    product = 1.0
    for ours, before in zip(result["chosen_us"], result["current_us"], strict=True):
        product *= ours / before
    return product ** (1 / len(result["current_us"]))


def judge(results: dict[str, Result]) -> list[Judgement]:
    return []
