"""What is tuned: keys of the configurations, representative shapes, grids of values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kernel_bench.attention import (
    COLUMNS_AND_HEADS,
    MASK_COLUMNS_AND_HEADS,
    PAGED_MASK,
    decode_problem,
    prefill_problem,
)
from kernel_bench.problem import Problem, Variant
from kernel_bench.rows import MASK_AND_HEADS, image_problem, norms_problem, select_problem
from kernel_bench.shapes import MODELS, SMALL_HEADS, TINY, AttentionShape, Model

# One axis of a grid: values of one setting, or of several that go together.
Axis = Sequence[dict[str, int]]
Build = Callable[[torch.device], Problem]
LLAVA, GEMMA = MODELS["llava-1.5-7b"], MODELS["gemma-3-4b"]


@dataclass(frozen=True)
class Task:
    """One key of one op. module: that of the launcher, below the op's package.

    variants: names of the problems' variants that are timed; None: the first. checks: names of
    others that run with the same configuration and must be right and spill nothing, too.
    """

    op: str
    key: str
    module: str
    problems: Sequence[Build]
    axes: Sequence[Axis]
    variants: tuple[str, ...] | None = None
    checks: tuple[str, ...] = ()

    def chosen(self, problem: Problem) -> list[Variant]:
        """The variants to time."""
        if self.variants is None:
            return [problem.variants[0]]
        return _named(problem, self.variants)

    def checked(self, problem: Problem) -> list[Variant]:
        """The variants to check only."""
        return _named(problem, self.checks)

    def candidates(self, current: dict[str, int]) -> list[dict[str, int]]:
        """The current configuration first, then every other point of the grid."""
        found = [current]
        for point in itertools.product(*self.axes):
            values = dict(current)
            for settings in point:
                values.update(settings)
            if values not in found:
                found.append(values)
        return found


def _named(problem: Problem, names: tuple[str, ...]) -> list[Variant]:
    found = {variant.name: variant for variant in problem.variants}
    return [found[name] for name in names]


def axis(name: str, *values: int) -> list[dict[str, int]]:
    return [{name: value} for value in values]


def _attention(
    problem: Callable[..., Problem], model: Model, *shapes: AttentionShape
) -> list[Build]:
    return [partial(_build, partial(problem, model, shape, only_ours=True)) for shape in shapes]


def _build(problem: Callable[[torch.device], Problem], device: torch.device) -> Problem:
    return problem(device)


def _norms(model: Model, *, normalize: bool, backward: bool, images: int = 32) -> Build:
    return partial(
        norms_problem, model, images, normalize=normalize, backward=backward, only_ours=True
    )


_STAGES = axis("num_stages", 2, 3, 4)
_DECODE_STAGES = [
    {"num_stages": 2, "paged_num_stages": 3},
    {"num_stages": 3, "paged_num_stages": 5},
    {"num_stages": 4, "paged_num_stages": 7},
]
_DECODED = ("steered, blocks of 16", "steered, dense")
_DECODED_MASKED = (MASK_COLUMNS_AND_HEADS,)
_NORM_AXES = (axis("BLOCK_ROWS", 1, 2, 4), axis("num_warps", 4, 8, 16))


def tasks(*, smoke: bool) -> Iterator[Task]:
    """Everything that can be tuned; of 16-bit inputs, which is what models run on."""
    if smoke:
        yield from _smoke_tasks()
        return
    for model in (LLAVA, GEMMA, SMALL_HEADS):
        size = model.head_size
        short = (AttentionShape(1, 1, 640), AttentionShape(16, 1, 2048))
        tail = (AttentionShape(1, 40, 640), AttentionShape(8, 40, 2048))
        for masked, names, checks in (
            ("", _DECODED, (COLUMNS_AND_HEADS,)),
            ("/masked", _DECODED_MASKED, (PAGED_MASK,)),
        ):
            yield Task(
                "steered_paged_decode",
                f"{size}/16/short{masked}",
                "launch",
                _attention(decode_problem, model, *short, AttentionShape(1, 1, 32768)),
                (axis("BLOCK_N", 32, 64, 128), axis("num_warps", 2, 4), _DECODE_STAGES),
                names,
                checks,
            )
            yield Task(
                "steered_paged_decode",
                f"{size}/16/tail{masked}",
                "launch",
                _attention(decode_problem, model, *tail),
                (
                    axis("BLOCK_M", 32, 64, 128),
                    axis("BLOCK_N", 32, 64),
                    axis("num_warps", 4, 8),
                    _DECODE_STAGES[:2],
                ),
                names,
                checks,
            )
        full = (AttentionShape(1, 2048, 2048), AttentionShape(16, 640, 640))
        few = (AttentionShape(1, 40, 640), AttentionShape(8, 40, 2048))
        for masked, names, checks in (
            ("", None, (COLUMNS_AND_HEADS,)),
            ("/masked", (MASK_COLUMNS_AND_HEADS,), ()),
        ):
            yield Task(
                "steered_prefill",
                f"{size}/16{masked}",
                "grid",
                _attention(prefill_problem, model, *full),
                (
                    axis("BLOCK_M", 64, 128),
                    axis("BLOCK_N", 32, 64, 128),
                    axis("num_warps", 4, 8),
                    _STAGES,
                ),
                names,
                checks,
            )
            yield Task(
                "steered_prefill",
                f"{size}/16/few{masked}",
                "grid",
                _attention(prefill_problem, model, *few),
                (
                    axis("BLOCK_M", 16, 32, 64),
                    axis("BLOCK_N", 32, 64),
                    axis("num_warps", 2, 4),
                    _STAGES,
                ),
                names,
                checks,
            )
        for rows, tier in ((1, 16), (256, 128)):
            yield Task(
                "image_attention",
                f"{size}/16/{tier}",
                "launch",
                _attention(
                    image_problem,
                    model,
                    AttentionShape(1, rows, 4096),
                    AttentionShape(4, rows, 4096),
                ),
                (
                    axis("BLOCK_N", 32, 64, 128),
                    axis("PROGRAMS_PER_CORE", 2, 4, 8),
                    axis("num_warps", 4, 8),
                    _STAGES,
                ),
                checks=(MASK_AND_HEADS,),
            )
    yield Task(
        "select_alpha",
        "16",
        "launch",
        [
            partial(select_problem, model, rows, only_ours=True)
            for model, rows in ((LLAVA, 1), (LLAVA, 64), (GEMMA, 16), (GEMMA, 512))
        ],
        (
            axis("BLOCK_V", 2048, 4096, 8192),
            axis("PROGRAMS_PER_MULTIPROCESSOR", 2, 4, 8),
            axis("num_warps", 4, 8, 16),
            axis("num_stages", 2, 3),
        ),
    )
    for model in (LLAVA, SMALL_HEADS):
        width = model.hidden
        yield Task(
            "rescale_norms",
            f"forward/{width}",
            "passes",
            [_norms(model, normalize=normalize, backward=False) for normalize in (False, True)],
            _NORM_AXES,
        )
        yield Task(
            "rescale_norms",
            f"rescale_backward/{width}",
            "passes",
            [_norms(model, normalize=False, backward=True)],
            _NORM_AXES,
        )
        yield Task(
            "rescale_norms",
            f"normalize_backward/{width}",
            "passes",
            [_norms(model, normalize=True, backward=True)],
            (
                *_NORM_AXES,
                axis("PROGRAMS_PER_MULTIPROCESSOR", 1, 2, 4),
                axis("num_stages", 1, 2, 3),
            ),
        )


def _smoke_tasks() -> Iterator[Task]:
    decode = _attention(decode_problem, TINY, AttentionShape(1, 1, 40))
    yield Task(
        "steered_paged_decode",
        "64/16/short",
        "launch",
        decode,
        [axis("BLOCK_N", 16)],
        _DECODED[:1],
        (COLUMNS_AND_HEADS,),
    )
    prefill = _attention(prefill_problem, TINY, AttentionShape(1, 16, 16))
    yield Task(
        "steered_prefill",
        "64/16/few/masked",
        "grid",
        prefill,
        [axis("BLOCK_N", 16)],
        (MASK_COLUMNS_AND_HEADS,),
    )
    select = [partial(select_problem, TINY, 2, only_ours=True)]
    yield Task("select_alpha", "16", "launch", select, [axis("BLOCK_V", 64)])
    norms = [_norms(TINY, normalize=False, backward=False, images=1)]
    yield Task("rescale_norms", "forward/128", "passes", norms, [axis("BLOCK_ROWS", 2)])
    image = _attention(image_problem, TINY, AttentionShape(1, 1, 20))
    yield Task(
        "image_attention",
        "64/16/16",
        "launch",
        image,
        [axis("BLOCK_N", 32)],
        checks=(MASK_AND_HEADS,),
    )
