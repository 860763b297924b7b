"""Find the fastest configurations of the Triton kernels on the GPU at hand.

    python benchmarks/tune_kernels.py --op steered_prefill
    python benchmarks/tune_kernels.py --write
    TRITON_INTERPRET=1 python benchmarks/tune_kernels.py --smoke

Times a grid of block sizes, warps and stages per key of the configurations, on a few shapes each.
Candidates that fail to compile, spill registers or compute something else are dropped. A new one
must be clearly faster than the current one on the whole. With --write the chosen ones go into
kernels/adaptvis_kernels/ops/<op>/configs/<architecture>.json.
"""

from __future__ import annotations

from typing import Annotated

import torch
import triton
import typer
from adaptvis_kernels.launching import architecture_of
from kernel_bench.candidates import Task, tasks
from kernel_bench.device import choose_device, device_name, refuse
from kernel_bench.tuning import (
    Outcome,
    best,
    configuration_file,
    tune,
    write_configurations,
)


def report(task: Task, outcomes: list[Outcome], chosen: Outcome | None, *, smoke: bool) -> None:
    """What happened to the candidates; of a smoke run no times."""
    typer.echo(f"\n{task.op} {task.key}: {len(outcomes)} candidates")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.score):
        mark = "*" if outcome is chosen else " "
        numbers = ", ".join(f"{value:.1f}" for value in outcome.microseconds)
        what = outcome.why or ("timed, meaningless" if smoke else f"{numbers} us")
        now = " (current)" if outcome is outcomes[0] else ""
        typer.echo(f"{' ' if smoke else mark} {outcome.values}{now}: {what}")


def main(
    op: Annotated[list[str] | None, typer.Option(help="Only this kernel; repeatable.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Only this key; repeatable.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Store the best.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny shapes; stores nothing.")] = False,
) -> None:
    """Tune and print every candidate; the chosen one is marked."""
    if smoke and write:
        refuse("A smoke run times nothing, so it cannot --write.")
    device = choose_device(smoke=smoke)
    everything = list(tasks(smoke=smoke))
    for what, names, known in (
        ("op", op, [task.op for task in everything]),
        ("key", key, [task.key for task in everything]),
    ):
        for name in names or ():
            if name not in known:
                listed = ", ".join(dict.fromkeys(known))
                raise typer.BadParameter(f"unknown {what} {name!r}; one of {listed}")
    architecture = architecture_of(device)
    source = f"timed on {device_name(device)}, triton {triton.__version__}"
    stream = torch.cuda.Stream() if device.type == "cuda" else None
    # Nothing happens in this context where the stream is None.
    with torch.cuda.stream(stream):
        for task in everything:
            if (op and task.op not in op) or (key and task.key not in key):
                continue
            outcomes = tune(task, architecture, device)
            chosen = best(outcomes)
            report(task, outcomes, chosen, smoke=smoke)
            # At once, so that a run that is cut off keeps what it found.
            if write and chosen is not None:
                path = configuration_file(task.op, architecture)
                write_configurations(path, {task.key: chosen.values}, source)
    if smoke:
        typer.echo("\nSmoke run: the times mean nothing, and nothing was chosen or stored.")


if __name__ == "__main__":
    typer.run(main)
