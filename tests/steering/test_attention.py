"""The torch implementation and the oracle against the definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptvis.steering.attention import merged_attention, reference_attention, steered_attention


@st.composite
def problems(draw, max_alpha=50.0):
    """Random shapes, grouped-query ratios, image columns (none and all included) and masks."""
    groups = draw(st.sampled_from([1, 2, 3]))
    heads = groups * draw(st.sampled_from([1, 2, 4, 8]))
    batch, rows = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    columns = rows + draw(st.integers(0, 40))
    size = draw(st.sampled_from([1, 8, 32, 80]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    image = torch.rand((batch, columns), generator=generator) < share
    alpha = torch.tensor(
        draw(
            st.lists(
                st.floats(-2, max_alpha, allow_subnormal=False),
                min_size=batch * rows,
                max_size=batch * rows,
            )
        ),
        dtype=torch.float64,
    ).view(batch, rows)
    causal = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
    padding = torch.rand((batch, 1, 1, columns), generator=generator) < 0.8
    padding[..., 0] = True
    return {
        "query": normal(batch, heads, rows, size),
        "key": normal(batch, groups, columns, size),
        "value": normal(batch, groups, columns, size),
        "image_columns": image,
        "row_alpha": alpha,
        "mask": draw(st.sampled_from([None, causal[None, None] & padding])),
        "scaling": size**-0.5,
    }


def as_float32(problem):
    return {
        name: item.float() if isinstance(item, torch.Tensor) and item.is_floating_point() else item
        for name, item in problem.items()
    }


@settings(deadline=None, max_examples=60)
@given(problems(), st.booleans())
def test_the_implementation_equals_the_definition_in_float64(problem, additive):
    expected = reference_attention(**problem, dtype=torch.float64)
    inputs = as_float32(problem)
    if additive and inputs["mask"] is not None:
        inputs["mask"] = torch.zeros(inputs["mask"].shape).masked_fill(
            ~inputs["mask"], torch.finfo(torch.float32).min
        )
    output, weights = steered_attention(**inputs)
    torch.testing.assert_close(output.double(), expected, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_merging_two_attentions_by_log_sum_exp_equals_the_definition(problem):
    expected = reference_attention(**problem, dtype=torch.float64)
    torch.testing.assert_close(merged_attention(**problem), expected, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(problems(), st.sampled_from([0.5, 30.0]))
def test_heads_and_soft_cap_follow_the_definition(problem, softcap):
    heads = torch.zeros(problem["query"].shape[1], dtype=torch.bool)
    heads[::2] = True
    expected = reference_attention(**problem, heads=heads, softcap=softcap, dtype=torch.float64)
    output, _ = steered_attention(**as_float32(problem), heads=heads, softcap=softcap)
    torch.testing.assert_close(output.double(), expected, atol=2e-4, rtol=2e-4)


def test_alpha_one_is_ordinary_attention():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    output, _ = steered_attention(
        query,
        key,
        value,
        image_columns=torch.ones(2, 9, dtype=torch.bool),
        row_alpha=torch.ones(2, 3),
        mask=None,
        scaling=0.25,
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, scale=0.25, enable_gqa=True
    )
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)


def test_alpha_zero_weighs_every_image_token_alike():
    torch.manual_seed(0)
    _, weights = steered_attention(
        torch.randn(1, 2, 1, 8),
        torch.randn(1, 2, 6, 8),
        torch.randn(1, 2, 6, 8),
        image_columns=torch.tensor([[False, True, True, True, False, False]]),
        row_alpha=torch.zeros(1, 1),
        mask=None,
        scaling=1.0,
    )
    image = weights[..., 1:4]
    torch.testing.assert_close(image, image.mean(-1, keepdim=True).expand_as(image))


def test_a_row_of_padding_that_sees_nothing_stays_finite():
    output, _ = steered_attention(
        torch.randn(1, 1, 1, 4),
        torch.randn(1, 1, 3, 4),
        torch.randn(1, 1, 3, 4),
        image_columns=torch.ones(1, 3, dtype=torch.bool),
        row_alpha=torch.full((1, 1), 5.0),
        mask=torch.zeros(1, 1, 1, 3, dtype=torch.bool),
        scaling=1.0,
    )
    assert output.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, 2, n, 32).to(dtype) for n in (1, 64, 64))
    options = {
        "image_columns": torch.ones(1, 64, dtype=torch.bool),
        "row_alpha": torch.full((1, 1), 2.0),
        "mask": None,
        "scaling": 32**-0.5,
    }
    output, _ = steered_attention(query, key, value, **options)
    expected = reference_attention(query, key, value, **options, dtype=torch.float64)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype))
