"""Steered attention over a paged cache, against the definition in float64, request by request."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.steering import paged
from adaptvis.steering.attention import reference_attention
from adaptvis.steering.paged import PagedRows, steered_paged_attention


def problem(lengths, counts, *, block_size, groups, group, size, seed, strided=False):
    """Random caches whose unused slots hold NaN, and the contiguous keys and values in them."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    blocks = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(blocks) + 2, generator=generator).to(torch.int32)
    shape = (
        (len(order), groups, size, block_size)
        if strided
        else (len(order), block_size, groups, size)
    )
    caches = [torch.full(shape, float("nan")) for _ in range(2)]
    if strided:
        caches = [cache.permute(0, 3, 1, 2) for cache in caches]
    table = torch.zeros(len(lengths), max(blocks), dtype=torch.int32)
    dense = []
    start = 0
    for row, (length, count) in enumerate(zip(lengths, blocks, strict=True)):
        own = order[start : start + count]
        start += count
        table[row, :count] = own
        values = [rand(length, groups, size) for _ in range(2)]
        for cache, part in zip(caches, values, strict=True):
            for position in range(length):
                cache[int(own[position // block_size]), position % block_size] = part[position]
        dense.append(values)
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
    total = int(starts[-1])
    rows = PagedRows(
        block_table=table,
        sequence_lengths=torch.tensor(lengths, dtype=torch.int32),
        row_starts=starts,
        lengths=lengths,
        counts=counts,
        image_columns=rand(len(lengths), max(lengths)) > 0,
    )
    alpha = rand(total) * 2
    return rand(total, groups * group, size), caches, rows, alpha, dense


def expected(query, rows, alpha, dense, *, window=None, heads=None, softcap=None):
    outputs = []
    for index, (length, count) in enumerate(zip(rows.lengths, rows.counts, strict=True)):
        own = slice(int(rows.row_starts[index]), int(rows.row_starts[index + 1]))
        position = torch.arange(length - count, length)[:, None]
        column = torch.arange(length)
        mask = column <= position
        if window is not None:
            mask &= column > position - window
        key, value = (part.transpose(0, 1)[None].double() for part in dense[index])
        outputs.append(
            reference_attention(
                query[own].transpose(0, 1)[None].double(),
                key,
                value,
                image_columns=rows.image_columns[index : index + 1, :length],
                row_alpha=alpha[own][None],
                mask=mask[None, None],
                scaling=0.2,
                heads=heads,
                softcap=softcap,
                dtype=torch.float64,
            )[0].transpose(0, 1)
        )
    return torch.cat(outputs).float()


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=5),
    block_size=st.sampled_from([1, 4, 16]),
    groups=st.integers(1, 2),
    group=st.integers(1, 3),
    window=st.none() | st.integers(1, 9),
    at_once=st.sampled_from([1, 300, 10**6]),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_batch_equals_the_definition(
    shapes, block_size, groups, group, window, at_once, strided, seed
) -> None:
    lengths = [max(length, count) for length, count in shapes]
    counts = [count for _, count in shapes]
    query, caches, rows, alpha, dense = problem(
        lengths,
        counts,
        block_size=block_size,
        groups=groups,
        group=group,
        size=8,
        seed=seed,
        strided=strided,
    )
    before, paged._ELEMENTS_AT_ONCE = paged._ELEMENTS_AT_ONCE, at_once
    try:
        output = steered_paged_attention(query, *caches, rows, alpha, scaling=0.2, window=window)
    finally:
        paged._ELEMENTS_AT_ONCE = before
    torch.testing.assert_close(
        output, expected(query, rows, alpha, dense, window=window), atol=1e-5, rtol=1e-5
    )


def test_heads_and_soft_cap_follow_the_definition() -> None:
    query, caches, rows, alpha, dense = problem(
        [17, 30], [2, 1], block_size=8, groups=2, group=2, size=8, seed=0
    )
    heads = torch.tensor([True, False, False, True])
    rows = PagedRows(**{**vars(rows), "heads": heads})
    output = steered_paged_attention(query, *caches, rows, alpha, scaling=0.2, softcap=1.5)
    want = expected(query, rows, alpha, dense, heads=heads, softcap=1.5)
    torch.testing.assert_close(output, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type(dtype) -> None:
    query, caches, rows, alpha, dense = problem(
        [17, 30], [2, 1], block_size=8, groups=2, group=2, size=8, seed=0
    )
    output = steered_paged_attention(
        query.to(dtype), *(cache.to(dtype) for cache in caches), rows, alpha, scaling=0.2
    )
    assert output.dtype == dtype
    torch.testing.assert_close(
        output.float(), expected(query, rows, alpha, dense), atol=4e-2, rtol=4e-2
    )
