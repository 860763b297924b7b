"""Every comparison of every kernel, one after another; needs torch and triton alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from adaptvis_kernels.device_check.timing import Ceilings

from kernel_bench.attention import decode_problem, prefill_problem, require_cache_fits
from kernel_bench.problem import Problem, Record, Refused, run_problem
from kernel_bench.rows import image_problem, norms_problem, select_problem
from kernel_bench.shapes import (
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


def measure_one(
    build: Build, device: torch.device, ceilings: Ceilings
) -> tuple[Sequence[Record], str]:
    """The records of one comparison; or none, and why it was skipped."""
    try:
        problem = build()
    except Refused as reason:
        return [], str(reason)
    except torch.OutOfMemoryError:
        return [], "out of memory"
    return run_problem(problem, device, ceilings), ""
