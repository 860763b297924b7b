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
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import triton
import typer
from adaptvis_kernels.device_check.timing import measure_ceilings
from kernel_bench.attention import decode_problem, prefill_problem, require_cache_fits
from kernel_bench.device import choose_device, device_name
from kernel_bench.problem import Problem, Record, Refused, run_problem
from kernel_bench.report import Run, problems_of_ours, write_results
from kernel_bench.rows import image_problem, norms_problem, select_problem
from kernel_bench.shapes import (
    MODELS,
    TINY,
    AttentionShape,
    Model,
    Size,
    decode_shapes,
    image_counts,
    image_shapes,
    prefill_shapes,
    row_counts,
)

KERNELS = (
    "steered_paged_decode",
    "steered_prefill",
    "select_alpha",
    "rescale_norms",
    "normalize_projection",
    "image_attention",
)
Build = Callable[[], Problem]


def builders(
    kernel: str, model: Model, size: Size, device: torch.device, budget: float
) -> Iterator[tuple[str, Build]]:
    """A name and a function for every comparison of one kernel; Refused where memory is short."""
    if kernel == "select_alpha":
        for rows in row_counts(size):
            yield f"{rows} rows", partial(select_problem, model, rows, device)
    elif kernel in ("rescale_norms", "normalize_projection"):
        for images in image_counts(size):
            for backward in (False, True):
                build = partial(
                    norms_problem,
                    model,
                    images,
                    device,
                    normalize=kernel == "normalize_projection",
                    backward=backward,
                )
                yield f"{images} images, {'backward' if backward else 'forward'}", build
    else:
        shapes, problem = {
            "steered_paged_decode": (decode_shapes, decode_problem),
            "steered_prefill": (prefill_shapes, prefill_problem),
            "image_attention": (image_shapes, image_problem),
        }[kernel]
        for shape in shapes(model, size):
            yield shape.text, partial(_within, budget, problem, model, shape, device)


def _within(
    budget: float,
    problem: Callable[..., Problem],
    model: Model,
    shape: AttentionShape,
    device: torch.device,
) -> Problem:
    require_cache_fits(model, shape, budget)
    return problem(model, shape, device)


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
                    try:
                        problem = build()
                    except (Refused, torch.OutOfMemoryError) as reason:
                        text = "out of memory" if not isinstance(reason, Refused) else reason
                        skipped.append(f"{name}, {one.name}, {what}: {text}")
                        continue
                    records += run_problem(problem, device, ceilings)
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
