"""Comparisons of the steered decode and the steered prefill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from adaptvis_kernels.device_check.timing import Call
from adaptvis_kernels.ops import steered_paged_decode as decode
from adaptvis_kernels.ops import steered_prefill as prefill
from adaptvis_kernels.ops.steered_paged_decode.cost import cost as decode_cost
from adaptvis_kernels.ops.steered_prefill.cost import cost as prefill_cost
from torch import Tensor
from torch.nn.attention import SDPBackend

from kernel_bench import baselines
from kernel_bench.inputs import TAIL_ROWS, Checker, Inputs, make_inputs, mask_or_window
from kernel_bench.problem import Problem, Refused, Variant
from kernel_bench.shapes import BYTES, AttentionShape, Model

# bfloat16 keeps 8 bits: rounding inputs of the second product and the output gives about 3e-3.
LIMIT = 1e-2
_BACKENDS = {
    "SDPA flash, unsteered": SDPBackend.FLASH_ATTENTION,
    "SDPA cuDNN, unsteered": SDPBackend.CUDNN_ATTENTION,
}
# What transformers models run: image tokens as columns, and a mask where the prompt is padded.
COLUMNS_AND_HEADS = "steered, columns and heads"
MASK_COLUMNS_AND_HEADS = "steered, explicit mask, columns and heads"
PAGED_MASK = "steered, blocks of 16, explicit mask and columns"


def _other_variants(
    shape: AttentionShape, sets: Sequence[Inputs], check: Callable[[str, Any], float]
) -> Iterator[Variant]:
    """The baselines that decode and prefill share."""
    device, (batch, heads, rows, _) = sets[0].query.device, sets[0].query.shape
    for name, backend in _BACKENDS.items():

        def sdpa(backend: SDPBackend = backend) -> list[Call]:
            return [baselines.sdpa(s.query, s.key, s.value, backend, shape.window) for s in sets]

        yield Variant(name, sdpa, partial(check, "ones"), LIMIT)

    def flex() -> list[Call]:
        run = baselines.flex_steered(device)
        window = shape.window
        mask = baselines.flex_block_mask(rows, shape.columns, window, device)
        last = slice(-window, None) if window is not None and rows == 1 else slice(None)
        return [
            partial(
                run,
                s.query,
                s.key[:, :, last],
                s.value[:, :, last],
                s.alpha,
                s.columns[:, last].contiguous(),
                mask,
            )
            for s in sets
        ]

    if shape.compiled:
        yield Variant("FlexAttention score_mod, compiled", flex, partial(check, "alpha"), LIMIT)

    def eager() -> list[Call]:
        baselines.require_eager_fits(batch, heads, rows, shape.columns)
        mask = baselines.causal_mask(rows, shape.columns, shape.window, device)
        return [
            partial(baselines.eager_steered, s.query, s.key, s.value, s.alpha, s.columns, mask)
            for s in sets
        ]

    yield Variant("eager torch", eager, partial(check, "alpha"), LIMIT)


def _paged(inputs: Inputs, block_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Key and value caches [blocks, block_size, G, D] in random order of blocks, and the table."""
    batch, groups, columns, size = inputs.key.shape
    blocks = -(-columns // block_size)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(batch * blocks, generator=generator).to(inputs.key.device)

    def scatter(tensor: Tensor) -> Tensor:
        padded = tensor.new_zeros(batch, blocks * block_size, groups, size)
        padded[:, :columns] = tensor.transpose(1, 2)
        cache = torch.empty_like(padded).view(batch * blocks, block_size, groups, size)
        cache[order] = padded.view_as(cache)
        return cache

    table = order.to(torch.int32).view(batch, blocks)
    return scatter(inputs.key), scatter(inputs.value), table


def decode_problem(
    model: Model, shape: AttentionShape, device: torch.device, *, only_ours: bool = False
) -> Problem:
    """Steered decode over paged and dense caches; the ratio of interest is to alpha = 1."""
    sets = make_inputs(model, shape, device)
    check = Checker(sets[0], shape.window)
    batch, rows, window = shape.batch, shape.rows, shape.window
    lengths = torch.full((batch,), shape.columns, dtype=torch.int32, device=device)
    blocks = {
        size: [_paged(inputs, size, seed) for seed, inputs in enumerate(sets)] for size in (16, 64)
    }

    def unpaged(output: Tensor) -> Tensor:
        return output.view(batch, rows, model.heads, -1).transpose(1, 2)

    def paged(size: int, alphas: str, where: str) -> list[Call]:
        return [
            partial(
                decode.steered_paged_decode,
                s.query.transpose(1, 2).reshape(batch * rows, model.heads, -1),
                key,
                value,
                block_table=table,
                sequence_lengths=lengths,
                row_alpha=getattr(s, alphas).reshape(-1),
                image_spans=s.spans if where == "spans" else None,
                image_columns=s.columns if where == "columns" else None,
                window=window,
            )
            for s, (key, value, table) in zip(sets, blocks[size], strict=True)
        ]

    def dense(alphas: str) -> list[Call]:
        return [
            partial(
                decode.steered_decode,
                s.query,
                s.key,
                s.value,
                row_alpha=getattr(s, alphas),
                image_spans=s.spans,
                window=window,
            )
            for s in sets
        ]

    every_head = torch.ones(model.heads, dtype=torch.bool, device=device)

    def dense_columns(*, masked: bool) -> list[Call]:
        rules = mask_or_window(shape, device, masked=masked)
        return [
            partial(
                decode.steered_decode,
                s.query,
                s.key,
                s.value,
                row_alpha=s.alpha,
                image_columns=s.columns,
                heads=every_head,
                **rules,
            )
            for s in sets
        ]

    def paged_mask() -> list[Call]:
        rules = mask_or_window(shape, device, masked=True)
        rules["visible"] = rules["visible"].reshape(batch * rows, -1)
        return [partial(call, window=None, **rules) for call in paged(16, "alpha", "columns")]

    def ours(name: str, calls: Callable[[], list[Call]], alphas: str, view: Any) -> Variant:
        return Variant(name, calls, lambda out: check(alphas, view(out)), LIMIT, ours=True)

    variants = []
    for size in (16, 64):
        for kind, alphas in (("steered", "alpha"), ("alpha 1", "ones")):
            calls = partial(paged, size, alphas, "spans")
            variants.append(ours(f"{kind}, blocks of {size}", calls, alphas, unpaged))
    columns = partial(paged, 16, "alpha", "columns")
    variants.append(ours("steered, blocks of 16, mask of columns", columns, "alpha", unpaged))
    nothing = partial(paged, 16, "ones", "nothing")
    variants.append(ours("no image tokens, blocks of 16", nothing, "ones", unpaged))
    for kind, alphas in (("steered", "alpha"), ("alpha 1", "ones")):
        variants.append(ours(f"{kind}, dense", partial(dense, alphas), alphas, lambda out: out))
    for name, calls, view in (
        (COLUMNS_AND_HEADS, partial(dense_columns, masked=False), lambda out: out),
        (MASK_COLUMNS_AND_HEADS, partial(dense_columns, masked=True), lambda out: out),
        (PAGED_MASK, paged_mask, unpaged),
    ):
        variants.append(ours(name, calls, "alpha", view))
    if not only_ours:
        variants += _other_variants(shape, sets, check)
    reach = shape.columns if window is None else min(shape.columns, window + rows - 1)
    moved = decode_cost(
        batch=batch,
        rows=rows,
        heads=model.heads,
        groups=model.groups,
        head_size=model.head_size,
        columns=reach,
        element_size=BYTES,
    )
    return Problem(
        "steered_paged_decode", model.name, shape.text, moved, variants, _dimensions(shape)
    )


def prefill_problem(
    model: Model, shape: AttentionShape, device: torch.device, *, only_ours: bool = False
) -> Problem:
    """Steered prefill: all rows steered, a tail of them, none; against everything unsteered."""
    sets = make_inputs(model, shape, device)
    check = Checker(sets[0], shape.window)

    def run(alphas: str, where: str) -> list[Call]:
        return [
            partial(
                prefill.steered_prefill,
                s.query,
                s.key,
                s.value,
                row_alpha=getattr(s, alphas),
                image_spans=s.spans if where == "spans" else None,
                image_columns=s.columns if where == "columns" else None,
                window=shape.window,
            )
            for s in sets
        ]

    every_head = torch.ones(model.heads, dtype=torch.bool, device=device)

    def columns_and_heads(*, masked: bool) -> list[Call]:
        rules = mask_or_window(shape, device, masked=masked)
        return [
            partial(
                prefill.steered_prefill,
                s.query,
                s.key,
                s.value,
                row_alpha=s.alpha,
                image_columns=s.columns,
                heads=every_head,
                **rules,
            )
            for s in sets
        ]

    def ours(name: str, alphas: str, where: str = "spans") -> Variant:
        return Variant(name, partial(run, alphas, where), partial(check, alphas), LIMIT, ours=True)

    variants = [
        ours("all rows steered", "alpha"),
        ours(f"tail of {TAIL_ROWS} rows steered", "tail_alpha"),
        ours("alpha 1", "ones"),
        ours("all rows steered, mask of columns", "alpha", "columns"),
    ]
    for name, masked in ((COLUMNS_AND_HEADS, False), (MASK_COLUMNS_AND_HEADS, True)):
        calls = partial(columns_and_heads, masked=masked)
        variants.append(Variant(name, calls, partial(check, "alpha"), LIMIT, ours=True))
    if not only_ours:
        variants += _other_variants(shape, sets, check)
    operations = prefill_cost(
        shape.batch,
        model.heads,
        model.groups,
        shape.rows,
        shape.columns,
        model.head_size,
        BYTES,
        window=shape.window,
    )
    return Problem(
        "steered_prefill", model.name, shape.text, operations, variants, _dimensions(shape)
    )


def _dimensions(shape: AttentionShape) -> dict[str, int | None]:
    return {
        "batch": shape.batch,
        "rows": shape.rows,
        "columns": shape.columns,
        "window": shape.window,
    }


def require_cache_fits(model: Model, shape: AttentionShape, budget: float) -> None:
    """Refuse a shape whose keys and values take more than ``budget`` bytes."""
    if shape.cache_bytes(model) > budget:
        raise Refused(f"keys and values take {shape.cache_bytes(model) / 2**30:.1f} GiB")
