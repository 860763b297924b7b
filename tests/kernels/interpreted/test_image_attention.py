"""Image attention in Triton's interpreter, against the whole softmax in float64."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from adaptvis_kernels.ops.image_attention import (
    ImageAttention,
    image_attention,
    image_attention_reference,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor


def examples(count: int) -> Any:
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tensor(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def positions(*rows: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """Lists of columns as one tensor, padded with -1."""
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=dtype)


def eager(query: Tensor, key: Tensor, options: dict[str, Any]) -> ImageAttention:
    """An oracle of its own: column by column in float64, nothing but the definition."""
    query, key = query.double(), key.double()
    batch, num_heads, rows, size = query.shape
    width = key.shape[2]
    image = options["image_positions"]
    scaling = options.get("scaling") or size**-0.5
    weights = torch.zeros(batch, num_heads, rows, image.shape[1], dtype=torch.float64)
    share, entropy = torch.zeros(2, batch, num_heads, rows, dtype=torch.float64)
    log_sum_exp = torch.full((batch, num_heads, rows), -math.inf, dtype=torch.float64)
    for b in range(batch):
        columns = image[b].tolist()
        for r in range(rows):
            seen = torch.tensor([_sees(options, b, r, rows, c, width) for c in range(width)])
            if not bool(seen.any()):
                continue
            slots = [j for j, c in enumerate(columns) if 0 <= c < width and bool(seen[c])]
            is_image = torch.zeros(width, dtype=torch.bool)
            is_image[[c for c in columns if 0 <= c < width]] = True
            for h in range(num_heads):
                group = h // (num_heads // key.shape[1])
                logits = key[b, group] @ query[b, h, r] * scaling
                if options.get("softcap"):
                    logits = options["softcap"] * torch.tanh(logits / options["softcap"])
                heads = options.get("heads")
                if options.get("row_alpha") is not None and (heads is None or bool(heads[h])):
                    logits[is_image] *= options["row_alpha"][b, r].double()
                logits = logits.masked_fill(~seen, -math.inf)
                log_sum_exp[b, h, r] = torch.logsumexp(logits, 0)
                if not slots:
                    continue
                chosen = logits[[columns[j] for j in slots]]
                softmax = torch.softmax(logits, 0)[[columns[j] for j in slots]]
                weights[b, h, r, slots] = softmax
                share[b, h, r] = softmax.sum()
                if len(slots) > 1:
                    among = torch.softmax(chosen, 0)
                    entropy[b, h, r] = -torch.xlogy(among, among).sum() / math.log(len(slots))
    return ImageAttention(weights, share, entropy, log_sum_exp)


def _sees(options: dict[str, Any], b: int, r: int, rows: int, column: int, width: int) -> bool:
    if options.get("visible") is not None:
        return bool(options["visible"].reshape(-1, rows, width)[b, r, column])
    given_positions = options.get("row_positions")
    position = width - rows + r if given_positions is None else int(given_positions[b, r])
    first = options.get("first_columns")
    window = options.get("window") or math.inf
    return (
        column <= position
        and column > position - window
        and column >= (0 if first is None else int(first[b]))
    )


def check(query: Tensor, key: Tensor, **options: Any) -> ImageAttention:
    """The kernel's four results against the oracle's, element by element."""
    got = image_attention(query, key, **options)
    want = eager(query, key, options)
    for name, actual, expected in zip(got._fields, got, want, strict=True):
        assert actual.dtype == torch.float32
        assert actual.shape == expected.shape
        assert actual.is_contiguous()
        torch.testing.assert_close(
            actual.double(),
            expected,
            rtol=2e-5,
            atol=2e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return got


@dataclass
class Case:
    query: Tensor
    key: Tensor
    options: dict[str, Any] = field(default_factory=dict)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    group = draw(st.sampled_from([1, 1, 2, 4, 8]))
    size = draw(st.sampled_from([32, 64, 80, 96, 128, 256]))
    width = draw(st.integers(1, 90))
    rows = draw(st.integers(1, min(5, width)))
    seed = draw(st.integers(0, 2**20))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    generator = torch.Generator().manual_seed(seed)
    # Keys as engines hold them: [B, N, G, D], [B, G, D, N], or a slice of a larger cache.
    layout = draw(st.sampled_from(["dense", "tokens first", "size first", "slice"]))
    key = 2 * tensor(seed, batch, groups, width, size)
    if layout == "tokens first":
        key = key.transpose(1, 2).contiguous().to(dtype).transpose(1, 2)
    elif layout == "size first":
        key = key.transpose(2, 3).contiguous().to(dtype).transpose(2, 3)
    elif layout == "slice":
        larger = torch.full((batch, groups, width + 7, size + 3), math.nan, dtype=dtype)
        larger[:, :, :width, :size] = key.to(dtype)
        key = larger[:, :, :width, :size]
    key = key.to(dtype)
    query = tensor(seed + 1, batch, rows, groups * group, size, dtype=dtype).transpose(1, 2)

    lists = []
    for _ in range(batch):
        chosen = torch.randperm(width, generator=generator)[: draw(st.integers(0, width))]
        lists.append(chosen.tolist() if draw(st.booleans()) else sorted(chosen.tolist()))
    slots = positions(*lists, dtype=draw(st.sampled_from([torch.int32, torch.int64])))
    if draw(st.booleans()):
        slots = torch.nn.functional.pad(slots, (0, 2), value=-1)
    options: dict[str, Any] = {"image_positions": slots}
    if draw(st.integers(0, 3)) == 0:
        options["visible"] = torch.rand(batch, rows, width, generator=generator) < 0.5
        if draw(st.booleans()):
            options["visible"] = options["visible"][:, None]
    else:
        if draw(st.booleans()):
            chosen = torch.randint(-1, width, (batch, rows), generator=generator)
            options["row_positions"] = chosen.to(draw(st.sampled_from([torch.int32, torch.int64])))
        if draw(st.booleans()):
            first = torch.randint(0, width + 1, (batch,), generator=generator)
            options["first_columns"] = first.int()
        if draw(st.booleans()):
            options["window"] = draw(st.integers(1, width + 3))
    if draw(st.booleans()):
        alphas = [draw(st.sampled_from([0.0, 0.5, 1.0, 1.5, -2.0])) for _ in range(batch * rows)]
        options["row_alpha"] = torch.tensor(alphas).view(batch, rows)
    if draw(st.booleans()):
        options["heads"] = torch.rand(groups * group, generator=generator) < 0.5
    if draw(st.booleans()):
        options["scaling"] = draw(st.sampled_from([0.02, 0.1, 0.3]))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([2.0, 30.0]))
    return Case(query, key, options)


@examples(40)
@given(cases())
def test_matches_the_whole_softmax_for_any_shapes_and_options(case: Case) -> None:
    check(case.query, case.key, **case.options)


@examples(30)
@given(cases())
def test_reference_matches_the_whole_softmax(case: Case) -> None:
    got = image_attention_reference(case.query.double(), case.key.double(), **case.options)
    torch.testing.assert_close(tuple(got), tuple(eager(case.query, case.key, case.options)))
    got = image_attention_reference(case.query, case.key, **case.options)
    for result in got:
        assert result.dtype == torch.float32


@pytest.mark.parametrize("layout", [[0, 1, 2, 3], [69, 68, 67], [0, 69], [*range(5, 40)]])
def test_images_at_either_end_and_several_images(layout: list[int]) -> None:
    check(
        tensor(0, 1, 2, 1, 32),
        tensor(1, 1, 2, 70, 32),
        image_positions=positions([*layout]),
        row_alpha=torch.tensor([[1.5]]),
    )


@pytest.mark.parametrize("slots", [0, 3])
def test_without_image_tokens_everything_but_log_sum_exp_is_zero(slots: int) -> None:
    got = check(
        tensor(0, 2, 2, 2, 32),
        tensor(1, 2, 1, 40, 32),
        image_positions=torch.full((2, slots), -1, dtype=torch.int32),
        row_alpha=torch.full((2, 2), 3.0),
    )
    assert not got.weights.any()
    assert not got.share.any()
    assert not got.entropy.any()
    assert got.log_sum_exp.isfinite().all()


def test_rows_that_see_nothing_give_zero_and_minus_infinity() -> None:
    got = check(
        tensor(0, 1, 2, 3, 32),
        tensor(1, 1, 1, 40, 32),
        image_positions=positions([3, 4, 5]),
        row_positions=torch.tensor([[-1, 2, 7]]),
        first_columns=torch.tensor([1], dtype=torch.int32),
    )
    assert got.log_sum_exp[:, :, 0].isneginf().all()
    assert not got.share[:, :, :2].any()
    assert got.log_sum_exp[:, :, 1:].isfinite().all()


def test_no_keys_at_all() -> None:
    got = image_attention(
        tensor(0, 1, 2, 1, 32),
        torch.zeros(1, 2, 0, 32),
        image_positions=positions([0, -1]),
        row_positions=torch.zeros(1, 1, dtype=torch.int32),
    )
    assert not got.weights.any()
    assert not got.share.any()
    assert not got.entropy.any()
    assert got.log_sum_exp.isneginf().all()


@pytest.mark.parametrize("alpha", [0.0, -3.0, 1e4, -1e4, 1e30, -1e30])
def test_alpha_of_any_size_gives_finite_results(alpha: float) -> None:
    # Columns 20 and 21 tie, exactly: logits of small integers are not rounded.
    key = tensor(1, 1, 2, 60, 64).round()
    key[:, :, 21] = key[:, :, 20]
    query = tensor(0, 1, 2, 2, 64).round()
    got = check(
        query,
        key,
        image_positions=positions([20, 21]),
        row_alpha=torch.full((1, 2), alpha),
    )
    torch.testing.assert_close(got.entropy, torch.ones(1, 2, 2))
    got = image_attention(
        query,
        key,
        image_positions=positions([*range(10, 50)]),
        row_alpha=torch.full((1, 2), alpha),
    )
    for result in got:
        assert result.isfinite().all()
    torch.testing.assert_close(got.weights.sum(-1), got.share)


def test_entropy_stays_accurate_where_the_share_on_the_image_underflows() -> None:
    key = tensor(1, 1, 1, 50, 32)
    query = tensor(0, 1, 1, 1, 32)
    # One column that takes everything: exp(-600) is 0 in float32.
    key[0, 0, 40] = query[0, 0, 0] * (600 / (query[0, 0, 0].square().sum() * 32**-0.5))
    got = check(query, key, image_positions=positions([*range(3, 20)]))
    assert not got.share.any()
    assert 0.1 < float(got.entropy) < 1.0


def test_uniform_attention_has_entropy_one_and_a_single_token_zero() -> None:
    got = image_attention(
        torch.zeros(2, 1, 1, 32),
        tensor(1, 2, 1, 64, 32),
        image_positions=positions([*range(8, 40)], [5]),
    )
    torch.testing.assert_close(got.entropy.flatten(), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(got.share.flatten(), torch.tensor([0.5, 1 / 64]))


def test_entropy_counts_only_the_image_tokens_that_a_row_sees() -> None:
    got = image_attention(
        torch.zeros(1, 1, 2, 32),
        tensor(1, 1, 1, 64, 32),
        image_positions=positions([*range(10, 30)]),
        row_positions=torch.tensor([[13, 10]]),
    )
    torch.testing.assert_close(got.entropy, torch.tensor([[[1.0, 0.0]]]))
    torch.testing.assert_close(got.share, torch.tensor([[[4 / 14, 1 / 11]]]))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_keys_that_nobody_may_see_do_not_matter(poison: float) -> None:
    query, key = tensor(0, 1, 2, 2, 32), tensor(1, 1, 2, 70, 32)
    options = {
        "image_positions": positions([2, 30, 31, 60]),
        "row_positions": torch.tensor([[50, 47]]),
        "first_columns": torch.tensor([5], dtype=torch.int32),
        "row_alpha": torch.tensor([[0.0, 2.0]]),
    }
    clean = image_attention(query, key, **options)
    key[:, :, :5] = poison
    key[:, :, 51:] = poison
    for got, want in zip(image_attention(query, key, **options), clean, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_position_that_comes_twice_counts_once() -> None:
    query, key = tensor(0, 1, 1, 1, 32), tensor(1, 1, 1, 40, 32)
    once = image_attention(query, key, image_positions=positions([7, 9]))
    twice = image_attention(query, key, image_positions=positions([9, 7, 9]))
    torch.testing.assert_close(twice.weights[..., 1:], once.weights)
    assert not twice.weights[..., 0].any()
    torch.testing.assert_close(twice.share, once.share)
    torch.testing.assert_close(twice.entropy, once.entropy)


def test_positions_outside_the_keys_are_padding() -> None:
    query, key = tensor(0, 2, 1, 1, 32), tensor(1, 2, 1, 40, 32)
    want = image_attention(query, key, image_positions=positions([7, 9], [0, 39]))
    got = image_attention(query, key, image_positions=positions([7, 40, -5, 9], [0, 2**30, 39]))
    torch.testing.assert_close(got.weights[0, ..., [0, 3]], want.weights[0])
    torch.testing.assert_close(got.weights[1, ..., [0, 2]], want.weights[1])
    torch.testing.assert_close(got.share, want.share)


@pytest.mark.parametrize("group", [1, 3])
def test_many_rows_span_several_tiles(group: int) -> None:
    rows = 45
    check(
        tensor(0, 1, group, rows, 32),
        tensor(1, 1, 1, 60, 32),
        image_positions=positions([*range(20, 40)]),
        row_alpha=torch.rand(1, rows, generator=torch.Generator().manual_seed(2)) * 2,
        window=30,
    )


def test_explicit_mask_of_any_strides_matches_causality() -> None:
    query, key = tensor(0, 2, 2, 4, 32), tensor(1, 2, 2, 50, 32)
    image = positions([*range(5, 25)], [*range(30, 49)])
    column = torch.arange(50)
    visible = column[:, None] <= torch.arange(46, 50)
    want = image_attention(query, key, image_positions=image)
    got = image_attention(
        query, key, image_positions=image, visible=visible.T[None, None].expand(2, 1, 4, 50)
    )
    for actual, expected in zip(got, want, strict=True):
        torch.testing.assert_close(actual, expected)


def test_heads_that_are_not_steered_keep_their_attention() -> None:
    query, key = tensor(0, 1, 4, 1, 32), tensor(1, 1, 2, 50, 32)
    image = positions([*range(5, 25)])
    alpha, heads = torch.tensor([[2.0]]), torch.tensor([True, False, False, True])
    plain = image_attention(query, key, image_positions=image)
    all_heads = image_attention(query, key, image_positions=image, row_alpha=alpha)
    some = image_attention(query, key, image_positions=image, row_alpha=alpha, heads=heads)
    for got, steered, unsteered in zip(some, all_heads, plain, strict=True):
        torch.testing.assert_close(got[:, heads], steered[:, heads], rtol=0, atol=0)
        torch.testing.assert_close(got[:, ~heads], unsteered[:, ~heads])
    assert (all_heads.share != plain.share).all()


def test_empty_batches_and_rows_return_empty_results() -> None:
    got = image_attention(
        torch.zeros(0, 2, 1, 32),
        torch.zeros(0, 2, 5, 32),
        image_positions=torch.zeros(0, 3, dtype=torch.int32),
    )
    assert got.weights.shape == (0, 2, 1, 3)
    got = image_attention(
        torch.zeros(1, 2, 0, 32),
        torch.zeros(1, 2, 5, 32),
        image_positions=torch.zeros(1, 3, dtype=torch.int32),
    )
    assert got.share.shape == (1, 2, 0)
