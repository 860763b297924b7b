"""Both functions and their gradients against float64, with autograd as the oracle of gradients."""

from __future__ import annotations

import pytest
import torch
from adaptvis_kernels.ops.rescale_norms import (
    normalize_projection,
    normalize_projection_reference,
    passes,
    rescale_norms,
    rescale_norms_reference,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptvis.steering import norms

_SHAPES = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
_NORMS = [
    {"target": 0.83, "clip": None},
    {"target": 2.0, "clip": 1.22},
    {"target": 0.83, "clip": 1.22},
    {"target": None, "clip": 1.22},
]
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
_LEADING = st.sampled_from([(1,), (5,), (2, 3), (7, 1), ()])


def _vectors(shape: tuple[int, ...], seed: int, norm: float = 1.22) -> torch.Tensor:
    """Norms spread around ``norm``: half and double, and 2 % off; and a vector of zeros."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64)
    factors = torch.tensor([0.5, 2.0, 0.98, 1.02, 0.0])[
        torch.randint(0, 5, shape[:-1], generator=generator)
    ]
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit * norm * factors[..., None]


def _run(function, inputs, output_gradient, **options):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs, **options)
    return output.detach(), *torch.autograd.grad(output, inputs, output_gradient)


def _assert_agrees(function, reference, inputs, seed, **options):
    """Output and gradients, each relative to the largest element of each vector."""
    generator = torch.Generator().manual_seed(seed + 1)
    output_gradient = torch.randn(inputs[0].shape, generator=generator).to(inputs[0].dtype)
    results = _run(function, inputs, output_gradient, **options)
    wide = [tensor.double() for tensor in inputs]
    wanted = _run(reference, wide, output_gradient.double(), **options)
    for got, want, like in zip(results, wanted, [inputs[0], *inputs], strict=True):
        assert got.dtype == like.dtype
        assert got.shape == like.shape
        assert got.is_contiguous()
        size = want.abs().amax(dim=-1, keepdim=True).clamp(min=0.1)
        torch.testing.assert_close(
            got.double() / size, want / size, rtol=0, atol=_TOLERANCE[like.dtype]
        )
    return results


@pytest.mark.parametrize("options", _NORMS)
def test_the_rescaling_reference_has_the_gradient_of_its_function(options):
    vectors = _vectors((8, 6), 0)
    vectors = vectors[vectors.norm(dim=-1) > 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rescale_norms_reference(x, **options), vectors)


def test_the_normalizing_reference_has_the_gradients_of_its_function():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    lengths = normalize_projection_reference(features, weight, max_norm=1e9, target_mean=1.0)
    max_norm = float(lengths.detach().norm(dim=-1).median()) + 1e-3

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return normalize_projection_reference(x, w, max_norm=max_norm, target_mean=0.83, eps=0.1)

    assert torch.autograd.gradcheck(function, (features, weight))


@_SHAPES
@given(
    leading=_LEADING,
    hidden_size=st.integers(1, 70),
    dtype=st.sampled_from(list(_TOLERANCE)),
    options=st.sampled_from(_NORMS),
    seed=st.integers(0, 2**16),
)
def test_rescaled_vectors_and_their_gradient_agree_with_float64(
    leading, hidden_size, dtype, options, seed
):
    vectors = _vectors((*leading, hidden_size), seed).to(dtype)
    _assert_agrees(rescale_norms, rescale_norms_reference, [vectors], seed, **options)


@pytest.mark.parametrize("options", [*_NORMS, {"target": None, "clip": None}])
def test_rescaling_agrees_with_the_package_in_value_and_gradient(options):
    vectors = _vectors((3, 5, 24), 7).float()
    vectors[0, 1] = 0
    output_gradient = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(8))
    results = _run(rescale_norms, [vectors], output_gradient, **options)
    wanted = _run(norms.rescale_norms, [vectors], output_gradient, **options)
    for got, want in zip(results, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", _NORMS)
def test_zero_vectors_stay_zero_and_pass_their_gradient_unchanged(options):
    vectors, output_gradient = torch.zeros(3, 20), torch.randn(3, 20)
    output, gradient = _run(rescale_norms, [vectors], output_gradient, **options)
    assert (output == 0).all()
    torch.testing.assert_close(gradient, output_gradient, rtol=0, atol=0)


def test_vectors_within_the_clip_keep_every_bit():
    vectors = _vectors((40, 33), 3, norm=0.5).float()
    output, gradient = _run(rescale_norms, [vectors], vectors, target=None, clip=1.22)
    assert torch.equal(output, vectors)
    assert torch.equal(gradient, vectors)


def test_vectors_with_nan_pass_as_in_the_package():
    vectors = torch.ones(2, 5)
    vectors[1, 2] = torch.nan
    for options in _NORMS:
        torch.testing.assert_close(
            rescale_norms(vectors, **options),
            norms.rescale_norms(vectors, **options),
            equal_nan=True,
        )


def _features_and_weight(shape, dtype, weight_dtype, seed):
    """Rows whose normalised length lies around the median of them all; one row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator)
    features *= torch.rand((*shape[:-1], 1), generator=generator) * 3 + 0.1
    features = features.to(dtype)
    weight = torch.randn(shape[-1], generator=generator).to(weight_dtype)
    lengths = normalize_projection_reference(
        features.double(), weight.double(), max_norm=1e9, target_mean=1.0
    ).norm(dim=-1)
    # Between two lengths, or beside the only one: at the kink itself there is no gradient.
    ordered = lengths.flatten().sort().values
    middle = len(ordered) // 2
    neighbour = ordered[middle - 1] if middle else ordered[middle] * 0.9
    return features, weight, float((ordered[middle] + neighbour) / 2)


@_SHAPES
@given(
    leading=_LEADING,
    hidden_size=st.integers(2, 40),
    dtype=st.sampled_from(list(_TOLERANCE)),
    weight_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_normalized_features_and_both_gradients_agree_with_float64(
    leading, hidden_size, dtype, weight_dtype, seed
):
    features, weight, max_norm = _features_and_weight(
        (*leading, hidden_size), dtype, weight_dtype, seed
    )
    _assert_agrees(
        normalize_projection,
        normalize_projection_reference,
        [features, weight],
        seed,
        max_norm=max_norm,
        target_mean=0.83,
        eps=1e-2,
    )


@pytest.mark.parametrize("max_norm", [1e-2, 1e9])
def test_all_rows_clipped_and_none_clipped(max_norm):
    features, weight, _ = _features_and_weight((5, 24), torch.float32, torch.float32, 3)
    _, gradient, _ = _assert_agrees(
        normalize_projection,
        normalize_projection_reference,
        [features, weight],
        3,
        max_norm=max_norm,
        target_mean=0.5,
    )
    if max_norm < 1:  # the output's length is fixed, so moving along the vector changes nothing
        torch.testing.assert_close((gradient * features).sum(-1), torch.zeros(5), rtol=0, atol=1e-6)


def test_normalized_zero_rows_agree_with_float64():
    features, weight, max_norm = _features_and_weight((4, 20), torch.float32, torch.float32, 4)
    features[2] = 0
    options = {"max_norm": max_norm, "target_mean": 0.83}
    _assert_agrees(
        normalize_projection, normalize_projection_reference, [features, weight], 4, **options
    )


def test_few_programs_that_loop_over_many_rows_sum_the_same_weight_gradient(monkeypatch):
    monkeypatch.setattr(passes, "multiprocessors_of", lambda device: 2)
    features, weight, max_norm = _features_and_weight((39, 20), torch.float32, torch.float32, 5)
    options = {"max_norm": max_norm, "target_mean": 0.83}
    arguments = (normalize_projection, normalize_projection_reference, [features, weight], 5)
    first = _assert_agrees(*arguments, **options)
    second = _assert_agrees(*arguments, **options)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("hidden_size", [128, 200])
def test_larger_hidden_sizes(hidden_size):
    vectors = _vectors((3, hidden_size), 1).float()
    options = {"target": None, "clip": 1.22}
    _assert_agrees(rescale_norms, rescale_norms_reference, [vectors], 1, **options)
    shape = (3, hidden_size)
    features, weight, max_norm = _features_and_weight(shape, torch.bfloat16, torch.float32, 2)
    _assert_agrees(
        normalize_projection,
        normalize_projection_reference,
        [features, weight],
        2,
        max_norm=max_norm,
        target_mean=0.83,
    )


@pytest.mark.parametrize("layout", ["rows apart", "every second", "transposed", "one for all"])
def test_any_strides_of_input_and_output_gradient(layout):
    def laid_out(seed: int) -> torch.Tensor:
        values = torch.randn(6, 20, generator=torch.Generator().manual_seed(seed))
        if layout == "rows apart":
            apart = torch.full((6, 33), torch.nan)
            apart[:, 2:22] = values
            return apart[:, 2:22]
        if layout == "every second":
            return values.repeat_interleave(2, 0)[::2]
        if layout == "transposed":
            return values.t().contiguous().t()
        return values[:1].expand(6, 20)

    vectors, output_gradient, weight = laid_out(0), laid_out(1), laid_out(2)[0]
    wide = [tensor.double() for tensor in (vectors, weight)]
    for function, reference, count, options in (
        (rescale_norms, rescale_norms_reference, 1, {"target": None, "clip": 4.5}),
        (
            normalize_projection,
            normalize_projection_reference,
            2,
            {"max_norm": 5.0, "target_mean": 0.83},
        ),
    ):
        results = _run(function, [vectors, weight][:count], output_gradient, **options)
        wanted = _run(reference, wide[:count], output_gradient.double(), **options)
        for got, want in zip(results, wanted, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_an_output_gradient_that_is_one_repeated_number():
    vectors = _vectors((4, 20), 11).float().requires_grad_()
    wide = vectors.detach().double().requires_grad_()
    rescale_norms(vectors, target=0.83, clip=None).sum().backward()
    rescale_norms_reference(wide, target=0.83, clip=None).sum().backward()
    torch.testing.assert_close(vectors.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 20), (2, 0, 20), (3, 0)])
def test_empty_inputs_give_empty_outputs_and_gradients(shape):
    vectors = torch.zeros(shape, requires_grad=True)
    weight = torch.ones(shape[-1], requires_grad=True)
    output = rescale_norms(vectors, target=0.83, clip=None)
    normalized = normalize_projection(vectors, weight, max_norm=1.22, target_mean=0.83)
    assert output.shape == normalized.shape == shape
    (output.sum() + normalized.sum()).backward()
    assert vectors.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(shape[-1]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_recorded(mode):
    vectors = _vectors((4, 20), 12).float().requires_grad_()
    weight = torch.ones(20, requires_grad=True)
    with mode():
        inside = torch.ones(4, 20)  # an inference tensor in inference mode
        for tensor in (vectors, inside):
            output = rescale_norms(tensor, target=0.83, clip=None)
            normalized = normalize_projection(tensor, weight, max_norm=1.22, target_mean=0.83)
            for result in (output, normalized):
                assert result.grad_fn is None
                assert not result.requires_grad
                assert result.isfinite().all()


@pytest.mark.parametrize("trained", ["features", "weight"])
def test_only_the_gradients_that_are_asked_for_are_computed(trained):
    features, weight, max_norm = _features_and_weight((5, 20), torch.float32, torch.float32, 6)
    options = {"max_norm": max_norm, "target_mean": 0.83}
    output_gradient = torch.randn(5, 20, generator=torch.Generator().manual_seed(7))
    both = _run(normalize_projection, [features, weight], output_gradient, **options)
    features.requires_grad_(trained == "features")
    weight.requires_grad_(trained == "weight")
    normalize_projection(features, weight, **options).backward(output_gradient)
    gradients = {"features": features.grad, "weight": weight.grad}
    other = "weight" if trained == "features" else "features"
    assert gradients[other] is None
    assert torch.equal(gradients[trained], both[1] if trained == "features" else both[2])


def test_a_second_derivative_is_refused():
    vectors = torch.ones(2, 20, requires_grad=True)
    output = rescale_norms(vectors, target=0.83, clip=None)
    (gradient,) = torch.autograd.grad(output.square().sum(), vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
