"""Steered prefill against its definition in float64, and against independent oracles."""

from __future__ import annotations

import math
import mmap
from typing import Any

import pytest
import torch
from adaptvis_kernels.columns import columns_of_spans
from adaptvis_kernels.ops.steered_prefill import (
    steered_prefill,
    steered_prefill_reference,
    steered_prefill_varlen,
    steered_prefill_varlen_reference,
)
from adaptvis_kernels.ops.steered_prefill.reference import visible_columns
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptvis.steering.attention import merged_attention, reference_attention

TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NAN = float("nan")


class Inputs:
    """Random query, key, value, alpha and image columns of one shape."""

    def __init__(
        self,
        seed: int = 0,
        *,
        batch: int = 2,
        heads: int = 2,
        groups: int = 1,
        rows: int = 37,
        columns: int = 53,
        size: int = 32,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.query = self.normal(batch, heads, rows, size).to(dtype)
        self.key = self.normal(batch, groups, columns, size).to(dtype)
        self.value = self.normal(batch, groups, columns, size).to(dtype)
        self.alpha = self.normal(batch, rows) * 1.5
        self.alpha[:, : rows // 2] = 1.0
        self.image = torch.rand(batch, columns, generator=self.generator) < 0.5

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, dtype=torch.int32)

    def spans(self, count: int) -> Tensor:
        """Random spans, some of them empty or beyond the end."""
        return self.integers(-2, self.key.shape[2] + 3, self.key.shape[0], count, 2)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value


def check(inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """The kernel agrees with the definition in float64, output and log-sum-exp."""
    options.setdefault("row_alpha", inputs.alpha)
    output, log_sum_exp = steered_prefill(*inputs.tensors(), return_log_sum_exp=True, **options)
    expected, expected_log_sum = steered_prefill_reference(
        *(tensor.double() for tensor in inputs.tensors()), **options
    )
    tolerance = TOLERANCES[inputs.query.dtype]
    assert output.dtype == inputs.query.dtype
    assert output.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        log_sum_exp.double(), expected_log_sum, atol=3 * tolerance, rtol=tolerance
    )
    return output, log_sum_exp


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    ratio=st.sampled_from([1, 2, 3, 8]),
    columns=st.integers(1, 75),
    missing=st.sampled_from([0, 0, 1, 9, 40]),
    size=st.sampled_from([32, 64, 80, 96, 128, 256, 20]),
    spans=st.sampled_from([None, 0, 1, 3, 9]),
    steer_some_heads=st.booleans(),
    pad=st.booleans(),
    window=st.sampled_from([None, 1, 7, 40]),
    softcap=st.sampled_from([None, None, 2.0]),
    bidirectional=st.sampled_from([0, 1, 3]),
)
def test_any_shape_and_options_give_the_definition(
    seed: int,
    batch: int,
    ratio: int,
    columns: int,
    missing: int,
    size: int,
    spans: int | None,
    steer_some_heads: bool,
    pad: bool,
    window: int | None,
    softcap: float | None,
    bidirectional: int,
) -> None:
    inputs = Inputs(
        seed,
        batch=batch,
        heads=ratio,
        rows=max(1, columns - missing),
        columns=columns,
        size=size,
    )
    check(
        inputs,
        image_columns=inputs.image if spans is None else None,
        image_spans=None if spans is None else inputs.spans(spans),
        heads=torch.arange(ratio) % 2 == 1 if steer_some_heads else None,
        first_columns=inputs.integers(0, columns + 2, batch) if pad else None,
        bidirectional_spans=inputs.spans(bidirectional) if bidirectional else None,
        window=window,
        softcap=softcap,
        scaling=0.3 if softcap else None,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [66, 21])
def test_half_precision_of_many_and_few_rows(dtype: torch.dtype, rows: int) -> None:
    inputs = Inputs(1, heads=2, rows=rows, columns=71, size=64, dtype=dtype)
    check(inputs, image_spans=inputs.spans(2), window=50)
    check(inputs, image_columns=inputs.image, bidirectional_spans=inputs.spans(2))


def test_the_definition_of_adaptvis_and_the_merge_of_two_attentions_agree() -> None:
    inputs = Inputs(2, heads=6, groups=2, rows=40, columns=61)
    inputs.image[:, 0], inputs.image[:, -1] = False, True
    output = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_columns=inputs.image)
    arguments: dict[str, Any] = {
        "image_columns": inputs.image,
        "row_alpha": inputs.alpha.double(),
        "mask": visible_columns(2, 40, 61)[:, None],
        "scaling": 32**-0.5,
    }
    wide = [tensor.double() for tensor in inputs.tensors()]
    expected = reference_attention(*wide, **arguments, dtype=torch.float64)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)
    merged = merged_attention(*wide, **arguments)
    torch.testing.assert_close(output.double(), merged, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("positions", ["none", "columns", "spans", "no image column"])
def test_alpha_of_one_is_ordinary_attention(positions: str) -> None:
    inputs = Inputs(3, heads=2, groups=2, rows=53, columns=53)
    alpha = torch.ones(2, 53)
    options: dict[str, Any] = {}
    if positions == "columns":
        options["image_columns"] = inputs.image
    if positions == "spans":
        options["image_spans"] = torch.tensor([[[0, 30]], [[10, 53]]], dtype=torch.int32)
    if positions == "no image column":
        options["image_columns"] = torch.zeros_like(inputs.image)
        alpha = inputs.alpha
    output = steered_prefill(*inputs.tensors(), row_alpha=alpha, **options)
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs.tensors(), is_causal=True)
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


def test_tiles_without_a_steered_row_give_exactly_ordinary_attention() -> None:
    inputs = Inputs(17)
    plain = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha)
    steered = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_columns=inputs.image)
    # Tiles are 16 rows, and rows from 18 on are steered.
    assert torch.equal(plain[:, :, :16], steered[:, :, :16])
    torch.testing.assert_close(plain[:, :, :18], steered[:, :, :18], atol=1e-5, rtol=1e-5)


def test_columns_and_spans_say_the_same() -> None:
    inputs = Inputs(4)
    spans = inputs.spans(5)
    by_spans = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_spans=spans)
    columns = columns_of_spans(spans, 53)
    by_columns = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_columns=columns)
    assert torch.equal(by_spans, by_columns)


@pytest.mark.parametrize("alpha", [0.0, -1.5, 6.0])
def test_coefficients_of_zero_and_below(alpha: float) -> None:
    inputs = Inputs(5)
    check(inputs, row_alpha=torch.full((2, 37), alpha), image_columns=inputs.image)


@pytest.mark.parametrize("alpha", [2.0**100, -(2.0**100)])
def test_huge_coefficients_pick_the_extreme_image_columns(alpha: float) -> None:
    inputs = Inputs(6)
    # Small integers, so that the products are exact and equal logits stay equal.
    inputs.query = inputs.integers(-2, 3, 2, 2, 37, 32).float()
    inputs.key = inputs.integers(-2, 3, 2, 1, 53, 32).float()
    check(inputs, row_alpha=torch.full((2, 37), alpha), image_columns=inputs.image, scaling=1.0)


def test_rows_that_see_nothing_give_zero_and_minus_infinity() -> None:
    inputs = Inputs(7)
    first = torch.tensor([30, 53], dtype=torch.int32)
    output, log_sum_exp = check(inputs, image_columns=inputs.image, first_columns=first)
    # The rows are columns 16 to 52: 14 of them are padding in one request, all in the other.
    assert not output[0, :, :14].any()
    assert torch.isneginf(log_sum_exp[0, :, :14]).all()
    assert torch.isfinite(log_sum_exp[0, :, 14:]).all()
    assert not output[1].any()
    assert torch.isneginf(log_sum_exp[1]).all()


@pytest.mark.parametrize("mode", ["padding", "window", "mask"])
def test_nothing_leaks_from_columns_that_no_row_sees(mode: str) -> None:
    inputs = Inputs(8, rows=20, columns=75)
    options: dict[str, Any] = {"image_columns": inputs.image}
    hidden = torch.zeros(2, 75, dtype=torch.bool)
    if mode == "padding":
        options["first_columns"] = torch.tensor([21, 70], dtype=torch.int32)
        hidden[0, :21] = hidden[1, :70] = True
    elif mode == "window":
        options["window"] = 9
        hidden[:, : 75 - 20 + 1 - 9] = True
    else:
        hidden = torch.rand(2, 75, generator=inputs.generator) < 0.4
        hidden[1, 30:] = True
        shown = torch.rand(2, 20, 75, generator=inputs.generator) < 0.6
        options["visible"] = shown & ~hidden[:, None]
        options["visible"][0, 3] = False
    for tensor in (inputs.key, inputs.value):
        tensor.masked_fill_(hidden[:, None, :, None], NAN)
    check(inputs, **options)


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    form=st.sampled_from(["plain", "one head axis", "expanded batch", "transposed"]),
)
def test_an_explicit_mask_replaces_everything_else(
    seed: int, rows: int, columns: int, form: str
) -> None:
    inputs = Inputs(seed, rows=rows, columns=columns)
    visible = torch.rand(2, rows, columns, generator=inputs.generator) < 0.5
    if form == "one head axis":
        visible = visible[:, None]
    if form == "expanded batch":
        visible = visible[:1].expand(2, -1, -1)
    if form == "transposed":
        visible = visible.transpose(1, 2).contiguous().transpose(1, 2)
    check(inputs, visible=visible, image_spans=inputs.spans(2))


def test_a_mask_of_more_than_two_gigabytes_between_columns_is_read_where_it_is() -> None:
    inputs = Inputs(14, batch=1, rows=5, columns=20)
    apart = 2**27  # The offset of column 16 does not fit in 32 bits.
    size = 19 * apart + 5
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    # Pages that nobody touches take no memory.
    storage = torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=torch.bool)
    visible = storage.as_strided((1, 5, 20), (5, 1, apart))
    visible[:] = torch.rand(1, 5, 20, generator=inputs.generator) < 0.5
    image = storage.as_strided((1, 20), (20, apart))
    check(inputs, visible=visible, image_columns=image)


def test_a_mask_that_states_causality_changes_nothing() -> None:
    inputs = Inputs(9)
    options: dict[str, Any] = {"row_alpha": inputs.alpha, "image_columns": inputs.image}
    first = torch.tensor([0, 20], dtype=torch.int32)
    mask = visible_columns(2, 37, 53, first_columns=first, window=30)
    implicit = steered_prefill(*inputs.tensors(), first_columns=first, window=30, **options)
    explicit = steered_prefill(*inputs.tensors(), visible=mask, **options)
    torch.testing.assert_close(implicit, explicit, atol=1e-5, rtol=1e-5)


def test_a_prefix_and_image_blocks_see_each_other_whatever_the_order() -> None:
    inputs = Inputs(10, rows=75, columns=75)
    # One long prefix (all tiles inside it see all of it), and blocks within a short window.
    spans = torch.tensor([[[3, 60], [0, 0]], [[5, 30], [33, 70]]], dtype=torch.int32)
    first = torch.tensor([3, 0], dtype=torch.int32)
    options: dict[str, Any] = {"image_spans": spans, "bidirectional_spans": spans}
    check(inputs, first_columns=first, **options)
    check(inputs, window=4, **options)


@pytest.mark.parametrize("layout", ["tokens first", "head size first", "every second"])
def test_any_strides(layout: str) -> None:
    inputs = Inputs(11, heads=4, groups=2)
    for name in ("query", "key", "value"):
        tensor = getattr(inputs, name)
        if layout == "tokens first":
            strided = tensor.transpose(1, 2).contiguous().transpose(1, 2)
        elif layout == "head size first":
            strided = tensor.transpose(2, 3).contiguous().transpose(2, 3)
        else:
            strided = torch.stack([tensor, torch.full_like(tensor, NAN)], -1).flatten(-2)[..., ::2]
        setattr(inputs, name, strided)
    image = torch.stack([inputs.image, ~inputs.image], -1).flatten(-2)[:, ::2]
    check(inputs, image_columns=image, row_alpha=inputs.alpha.T.contiguous().T)
    check(inputs, image_columns=image[:1].expand(2, -1), row_alpha=inputs.alpha[:1].expand(2, -1))


def test_sections_cover_every_pair_of_request_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptvis_kernels.ops.steered_prefill import grid

    monkeypatch.setattr(grid, "_SECTION_BYTES", 1)
    inputs = Inputs(12, batch=3, heads=6, groups=2, rows=20, columns=20)
    check(inputs, image_columns=inputs.image)
    monkeypatch.setattr(grid, "_SECTION_BYTES", 2 * 2 * 20 * 32 * 4)
    check(Inputs(13, batch=3, heads=3, groups=3, rows=20, columns=20))


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**16),
    lengths=st.lists(
        st.tuples(st.sampled_from([0, 1, 9, 16, 33]), st.sampled_from([0, 2, 30])),
        min_size=1,
        max_size=4,
    ),
    by_spans=st.booleans(),
    window=st.sampled_from([None, 11]),
    softcap=st.sampled_from([None, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_requests_of_unequal_and_zero_length(
    seed: int,
    lengths: list[tuple[int, int]],
    by_spans: bool,
    window: int | None,
    softcap: float | None,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor([own for own, _ in lengths])
    tokens = torch.tensor([own + earlier for own, earlier in lengths])
    total_rows, total_tokens = int(rows.sum()), int(tokens.sum())
    query = torch.randn(total_rows, 4, 32, generator=generator).to(dtype)
    key = torch.randn(total_tokens, 2, 32, generator=generator).to(dtype)
    value = torch.randn(total_tokens, 2, 32, generator=generator).to(dtype)
    batch = len(lengths)

    def spans(count: int) -> Tensor:
        drawn = torch.randint(0, 50, (batch, count, 2), generator=generator)
        return drawn.int()

    options: dict[str, Any] = {
        "query_starts": torch.nn.functional.pad(rows.cumsum(0), (1, 0)).int(),
        "key_starts": torch.nn.functional.pad(tokens.cumsum(0), (1, 0)).int(),
        "row_alpha": torch.randn(total_rows, generator=generator),
        "bidirectional_spans": spans(2),
        "window": window,
        "softcap": softcap,
        "heads": torch.tensor([True, False, True, True]),
    }
    if by_spans:
        options["image_spans"] = spans(2)
    else:
        options["image_columns"] = torch.rand(total_tokens, generator=generator) < 0.5
    output, log_sum_exp = steered_prefill_varlen(
        query, key, value, max_rows=int(rows.max()), return_log_sum_exp=True, **options
    )
    expected, expected_log_sum = steered_prefill_varlen_reference(
        query.double(), key.double(), value.double(), **options
    )
    tolerance = TOLERANCES[dtype]
    assert output.is_contiguous()
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        log_sum_exp.double(), expected_log_sum, atol=3 * tolerance, rtol=tolerance
    )


def test_unequal_requests_give_what_each_gives_alone() -> None:
    inputs = Inputs(14, batch=1, heads=2, groups=2, rows=40, columns=40)
    output = steered_prefill_varlen(
        *(tensor[0].transpose(0, 1) for tensor in inputs.tensors()),
        query_starts=torch.tensor([0, 40], dtype=torch.int32),
        key_starts=torch.tensor([0, 40], dtype=torch.int32),
        max_rows=40,
        row_alpha=inputs.alpha[0],
        image_columns=inputs.image[0],
    )
    alone = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_columns=inputs.image)
    assert torch.equal(output, alone[0].transpose(0, 1))


@pytest.mark.parametrize("empty", ["batch", "rows"])
def test_empty_inputs_give_empty_outputs(empty: str) -> None:
    inputs = Inputs(15, batch=0 if empty == "batch" else 1, rows=0 if empty == "rows" else 5)
    output = steered_prefill(*inputs.tensors(), row_alpha=inputs.alpha, image_columns=inputs.image)
    assert output.shape == inputs.query.shape


def test_without_a_column_every_row_gives_zero() -> None:
    inputs = Inputs(16, rows=5, columns=0)
    visible = torch.ones(2, 5, 0, dtype=torch.bool)
    output, log_sum_exp = steered_prefill(
        *inputs.tensors(), row_alpha=inputs.alpha, visible=visible, return_log_sum_exp=True
    )
    assert not output.any()
    assert torch.equal(log_sum_exp, torch.full((2, 2, 5), -math.inf))
