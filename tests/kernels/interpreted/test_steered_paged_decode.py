"""steered_paged_decode in the interpreter, against float64 and against the merge oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from adaptvis_kernels.ops.steered_paged_decode import (
    steered_decode,
    steered_paged_decode,
    steered_paged_decode_reference,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptvis.steering.attention import merged_attention

_SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
_TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 5e-3, "atol": 5e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


@dataclass
class Case:
    """Random inputs; every slot of the cache that no request owns holds NaN."""

    seed: int = 0
    rows: tuple[int, ...] = (1, 3)
    lengths: tuple[int, ...] = (37, 50)
    groups: int = 2
    ratio: int = 2
    head_size: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    images: str = "columns"
    alpha: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        batch, total = len(self.rows), sum(self.rows)
        blocks = -(-max(self.lengths) // self.block_size)
        num_heads = self.groups * self.ratio
        shape = (batch * blocks + 2, self.block_size, self.groups, self.head_size)
        caches = [torch.randn(shape, generator=generator).to(self.dtype) for _ in range(2)]
        order = torch.randperm(batch * blocks, generator=generator)
        self.table = order.view(batch, blocks).to(torch.int32)
        owned = torch.zeros(shape[:2], dtype=torch.bool)
        for request, length in enumerate(self.lengths):
            for token in range(length):
                block = int(self.table[request, token // self.block_size])
                owned[block, token % self.block_size] = True
        self.key, self.value = (
            torch.where(owned[..., None, None], cache, float("nan")) for cache in caches
        )
        self.query = torch.randn(total, num_heads, self.head_size, generator=generator)
        self.query = self.query.to(self.dtype)
        self.alpha_rows = torch.rand(total, generator=generator) * 4 - 1
        if self.alpha is not None:
            self.alpha_rows.fill_(self.alpha)
        self.starts = torch.tensor([0, *self.rows]).cumsum(0).to(torch.int32)
        width = max(self.lengths)
        self.image: dict[str, Tensor] = {}
        if self.images == "columns":
            columns = torch.rand(batch, width, generator=generator) < 0.4
            self.image = {"image_columns": columns}
        elif self.images == "spans":
            bounds = torch.randint(0, width + 1, (batch, 3, 2), generator=generator)
            self.image = {"image_spans": bounds.to(torch.int32)}
        elif self.images == "ends":
            spans = [[[0, 5], [length - 1, length]] for length in self.lengths]
            self.image = {"image_spans": torch.tensor(spans, dtype=torch.int32)}
        if self.options.get("heads"):
            self.options["heads"] = torch.arange(num_heads) % 2 == 0
        if self.options.get("visible"):
            self.options["visible"] = torch.rand(total, width, generator=generator) < 0.5
        if self.options.get("first_columns"):
            first = torch.randint(0, min(self.lengths) + 1, (batch,), generator=generator)
            self.options["first_columns"] = first.to(torch.int32)

    def check(self, num_splits: int | None = None) -> tuple[Tensor, Tensor]:
        shared = {
            "block_table": self.table,
            "sequence_lengths": torch.tensor(self.lengths, dtype=torch.int32),
            "row_alpha": self.alpha_rows,
            "row_starts": self.starts,
            **self.image,
            **self.options,
        }
        output, log_sum = steered_paged_decode(
            self.query,
            self.key,
            self.value,
            max_rows=max(self.rows),
            return_log_sum_exp=True,
            num_splits=num_splits,
            **shared,
        )
        wanted, wanted_log_sum = steered_paged_decode_reference(
            self.query.double(), self.key.double(), self.value.double(), **shared
        )
        tolerance = _TOLERANCE[self.dtype]
        torch.testing.assert_close(output.double(), wanted, **tolerance)
        torch.testing.assert_close(log_sum.double(), wanted_log_sum, **tolerance)
        return output, log_sum


@settings(max_examples=25, **_SETTINGS)
@given(data=st.data())
def test_any_shape_equals_the_float64_reference(data: st.DataObject) -> None:
    requests = data.draw(st.integers(1, 3))
    rows = tuple(data.draw(st.integers(1, 5)) for _ in range(requests))
    lengths = tuple(data.draw(st.integers(count, 90)) for count in rows)
    options = {
        name: value
        for name, value in {
            "window": data.draw(st.none() | st.integers(1, 60)),
            "softcap": data.draw(st.none() | st.floats(0.5, 50)),
            "heads": data.draw(st.booleans()),
            "first_columns": data.draw(st.booleans()),
        }.items()
        if value
    }
    Case(
        seed=data.draw(st.integers(0, 2**16)),
        rows=rows,
        lengths=lengths,
        groups=data.draw(st.integers(1, 2)),
        ratio=data.draw(st.sampled_from([1, 2, 3, 7, 8])),
        head_size=data.draw(st.sampled_from([32, 64, 80, 96, 128])),
        block_size=data.draw(st.sampled_from([1, 7, 16, 32, 64])),
        images=data.draw(st.sampled_from(["columns", "spans", "ends", "none"])),
        options=options,
    ).check(num_splits=data.draw(st.integers(1, 4)))


@pytest.mark.parametrize("alpha", [0.0, -3.0, 1.0, 1e4, -1e4])
def test_extreme_alphas_equal_the_reference(alpha: float) -> None:
    # Logits of order 1e5 leave float32 about 1e-2 of absolute precision: one-hot either way.
    case = Case(alpha=alpha, images="ends")
    if abs(alpha) < 100:
        case.check(num_splits=2)
        return
    output = steered_paged_decode(
        case.query,
        case.key,
        case.value,
        block_table=case.table,
        sequence_lengths=torch.tensor(case.lengths, dtype=torch.int32),
        row_alpha=case.alpha_rows,
        row_starts=case.starts,
        max_rows=3,
        **case.image,
    )
    wanted, _ = steered_paged_decode_reference(
        case.query.double(),
        case.key.double(),
        case.value.double(),
        block_table=case.table,
        sequence_lengths=torch.tensor(case.lengths),
        row_alpha=case.alpha_rows,
        row_starts=case.starts,
        **case.image,
    )
    torch.testing.assert_close(output.double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_size", [80, 256])
def test_half_precision_equals_the_reference(dtype: torch.dtype, head_size: int) -> None:
    Case(dtype=dtype, head_size=head_size, options={"softcap": 20.0}).check(num_splits=2)


def test_explicit_mask_replaces_causality() -> None:
    Case(rows=(2, 4), options={"visible": True}).check(num_splits=3)


@pytest.mark.parametrize("mode", ["visible", "first_columns", "window"])
@pytest.mark.parametrize("splits", [1, 3])
def test_nothing_leaks_from_columns_that_no_row_sees(mode: str, splits: int) -> None:
    case = Case(rows=(1, 3), lengths=(45, 70))
    hidden = torch.zeros(2, 70, dtype=torch.bool)
    if mode == "first_columns":
        case.options["first_columns"] = torch.tensor([21, 66], dtype=torch.int32)
        hidden[0, :21] = hidden[1, :66] = True
    elif mode == "window":
        case.options["window"] = 5
        hidden[0, : 45 - 5] = hidden[1, : 70 - 3 + 1 - 5] = True
    else:
        generator = torch.Generator().manual_seed(5)
        hidden = torch.rand(2, 70, generator=generator) < 0.4
        hidden[1, 30:] = True
        shown = torch.rand(4, 70, generator=generator) < 0.6
        case.options["visible"] = shown & ~hidden[[0, 1, 1, 1]]
        case.options["visible"][2] = False
    for request, length in enumerate(case.lengths):
        for token in hidden[request, :length].nonzero().flatten().tolist():
            block = int(case.table[request, token // case.block_size])
            case.key[block, token % case.block_size] = float("nan")
            case.value[block, token % case.block_size] = float("nan")
    case.check(num_splits=splits)


@pytest.mark.parametrize("splits", [1, 3])
def test_tokens_behind_the_image_columns_are_no_image(splits: int) -> None:
    case = Case(rows=(1, 1), lengths=(33, 33), images="none")
    # The rows of the narrower tensor follow each other: behind the first lies the second.
    case.image = {"image_columns": torch.tensor([[False] * 32, [True] * 32])}
    case.check(num_splits=splits)


@pytest.mark.parametrize("splits", [1, 3])
def test_tokens_behind_an_explicit_mask_are_not_visible(splits: int) -> None:
    case = Case(rows=(1, 3), lengths=(40, 61))
    case.options["visible"] = torch.ones(4, 32, dtype=torch.bool)
    case.check(num_splits=splits)


def test_rows_that_see_nothing_give_zero() -> None:
    case = Case(rows=(1, 2), lengths=(20, 30), options={"first_columns": True})
    case.options["first_columns"] = torch.tensor([20, 30], dtype=torch.int32)
    for splits in (1, 3):
        output, log_sum = case.check(num_splits=splits)
        assert torch.all(output == 0)
        assert torch.all(log_sum == float("-inf"))


def test_no_image_and_empty_spans_leave_attention_alone() -> None:
    plain = Case(images="none").check()[0]
    spans = Case(images="spans")
    spans.image = {"image_spans": torch.tensor([[[9, 9]], [[12, 3]]], dtype=torch.int32)}
    torch.testing.assert_close(spans.check()[0], plain, rtol=0, atol=0)


def test_alpha_one_gives_the_bits_of_no_image() -> None:
    plain = Case(images="none").check(num_splits=1)[0]
    steered = Case(images="columns", alpha=1.0).check(num_splits=1)[0]
    assert torch.equal(plain, steered)


def test_result_does_not_depend_on_the_number_of_slices() -> None:
    case = Case(lengths=(90, 61))
    whole, _ = case.check(num_splits=1)
    for splits in (2, 5, 64):
        torch.testing.assert_close(case.check(num_splits=splits)[0], whole, rtol=1e-5, atol=1e-5)


def test_key_layout_with_head_dimension_before_tokens() -> None:
    case = Case()
    case.key = case.key.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert case.key.stride(-1) != 1
    case.check(num_splits=2)


def test_interleaved_key_value_cache_is_read_through_its_strides() -> None:
    case = Case(head_size=64)
    both = torch.stack([case.key, case.value], dim=1)
    case.key, case.value = both.unbind(1)
    case.check()


@pytest.mark.parametrize("rows", [1, 5])
def test_dense_cache_equals_the_merge_oracle(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    batch, num_heads, groups, columns, size = 2, 6, 3, 45, 40
    query = torch.randn(batch, rows, num_heads, size, generator=generator).transpose(1, 2)
    key, value = (torch.randn(batch, groups, columns, size, generator=generator) for _ in "kv")
    image = torch.rand(batch, columns, generator=generator) < 0.5
    image[1] = False
    alpha = torch.rand(batch, rows, generator=generator) * 3
    mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)[None, None]
    wanted = merged_attention(
        query.double(),
        key.double(),
        value.double(),
        image_columns=image,
        row_alpha=alpha.double(),
        mask=mask,
        scaling=0.2,
    )
    shared = {"row_alpha": alpha, "image_columns": image, "scaling": 0.2}
    output = steered_decode(query, key, value, **shared)
    torch.testing.assert_close(output.double(), wanted, rtol=1e-5, atol=1e-5)
    assert output.transpose(1, 2).is_contiguous()
    seen = mask[0].expand(batch, -1, -1)
    masked, log_sum = steered_decode(
        query, key, value, visible=seen, return_log_sum_exp=True, **shared
    )
    torch.testing.assert_close(masked.double(), wanted, rtol=1e-5, atol=1e-5)
    assert log_sum.shape == (batch, num_heads, rows)
