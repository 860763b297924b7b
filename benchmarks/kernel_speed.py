"""How fast the Triton kernels are: against PyTorch, and against the device's own ceilings.

    python benchmarks/kernel_speed.py
    python benchmarks/kernel_speed.py --quick --kernel steered_prefill --model llava-1.5-7b
    TRITON_INTERPRET=1 python benchmarks/kernel_speed.py --smoke

Needs a GPU, torch, triton and typer, and adaptvis_kernels on the path (PYTHONPATH=kernels where
adaptvis is not installed). Every output is compared with a float64 reference before it is timed.
A full run takes minutes per model, most of them compilation; results are written after every shape.
The last line runs the whole harness without a GPU, on tiny shapes; its times mean nothing.
Exit status 1: a kernel gave a wrong output, or failed.

(This file is not called kernels.py: from there it would hide Hugging Face's library `kernels` from
the other benchmarks.)
"""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import triton
import typer
from adaptvis_kernels.device_check.timing import measure_ceilings
from kernel_bench.device import choose_device, device_name
from kernel_bench.problem import Record
from kernel_bench.report import Run, problems_of_ours, write_results
from kernel_bench.shapes import MODELS, TINY, Size
from kernel_bench.speed import KERNELS, builders, measure_one


def main(
    kernel: Annotated[list[str] | None, typer.Option(help="Only this kernel; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few shapes of each.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Tiny shapes; times mean nothing.")
    ] = False,
    memory_gib: Annotated[float, typer.Option(help="Most GiB of keys and values.")] = 6.0,
    output_dir: Annotated[Path, typer.Option(help="Where the tables go.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure, check and write kernels.json and kernels.md."""
    for what, names, known in (("kernel", kernel, KERNELS), ("model", model, MODELS)):
        for name in names or ():
            if name not in known:
                raise typer.BadParameter(f"unknown {what} {name!r}; one of {', '.join(known)}")
    device = choose_device(smoke=smoke)
    size: Size = "smoke" if smoke else "quick" if quick else "full"
    models = [TINY] if smoke else [MODELS[name] for name in model or MODELS]
    run = Run(
        command=shlex.join(["python", "benchmarks/kernel_speed.py", *sys.argv[1:]]),
        device=device_name(device),
        torch=torch.__version__,
        triton=triton.__version__,
        smoke=smoke,
    )
    records: list[Record] = []
    skipped: list[str] = []
    # Graphs cannot be captured on the default stream, nor a backward pass of what ran there.
    stream = torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext()
    with stream:
        ceilings = measure_ceilings(device, smoke=smoke)
        run = replace(run, ceilings=ceilings)
        for name in kernel or KERNELS:
            for one in models:
                for what, build in builders(name, one, size, device, memory_gib * 2**30):
                    typer.echo(f"{name}, {one.name}, {what}", err=True)
                    found, why = measure_one(build, device, ceilings)
                    if why:
                        skipped.append(f"{name}, {one.name}, {what}: {why}")
                    records += found
                    # After each, so that a run that is cut off leaves what it measured.
                    write_results(output_dir, run, records, skipped)
    paths = write_results(output_dir, replace(run, finished=True), records, skipped)
    typer.echo(paths[1].read_text())
    wrong = problems_of_ours(records)
    for text in wrong:
        typer.echo(text, err=True)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
