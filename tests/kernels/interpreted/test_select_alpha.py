"""Confidence and coefficient of the kernel against float64 and against AdaptVis's own policy."""

from __future__ import annotations

import math

import pytest
import torch
from adaptvis_kernels.ops.select_alpha import launch as launcher
from adaptvis_kernels.ops.select_alpha import select_alpha, select_alpha_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.steering import policy

_FIXTURE = [HealthCheck.function_scoped_fixture]
_SHAPES = settings(max_examples=30, suppress_health_check=_FIXTURE)
_OPTIONS = settings(max_examples=12, suppress_health_check=_FIXTURE)
_DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
_POLICY = {"threshold": 0.4, "alpha_low": 0.5, "alpha_high": 1.5}


def _logits(rows: int, size: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


def _assert_agrees(logits: torch.Tensor, **options: object) -> None:
    confidence, alpha = select_alpha(logits, **options)
    wanted, _ = select_alpha_reference(logits.double(), **options)
    torch.testing.assert_close(confidence, wanted.float(), rtol=2e-6, atol=0, equal_nan=True)
    # The choice is exact given the confidence that is returned.
    low, high = (torch.as_tensor(options[name]) for name in ("alpha_low", "alpha_high"))
    chosen = torch.where(confidence < options["threshold"], low, high)
    applies = options.get("applies")
    torch.testing.assert_close(
        alpha, chosen if applies is None else torch.where(applies, chosen, 1.0), rtol=0, atol=0
    )


@_SHAPES
@given(
    rows=st.integers(1, 5),
    size=st.integers(1, 300),
    multiprocessors=st.sampled_from([1, 3, 108]),
    dtype=_DTYPES,
    layout=st.sampled_from(["contiguous", "rows apart", "transposed"]),
    hidden=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_any_shape_layout_and_number_of_splits_agree_with_float64(
    rows, size, multiprocessors, dtype, layout, hidden, seed
):
    logits = _logits(rows, size, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    logits[torch.rand(rows, size, generator=generator) < hidden] = -math.inf
    if layout == "rows apart":
        apart = torch.full((rows, 3, size + 5), math.nan, dtype=dtype)
        apart[:, -1, :size] = logits
        logits = apart[:, -1, :size]
    elif layout == "transposed":
        logits = logits.t().contiguous().t()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "multiprocessors_of", lambda device: multiprocessors)
        _assert_agrees(logits, **_POLICY)


@_OPTIONS
@given(
    per_row=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    some_apply=st.booleans(),
    size=st.sampled_from([10, 200]),
    seed=st.integers(0, 2**16),
)
def test_numbers_and_tensors_mix_and_rows_left_out_get_one(per_row, some_apply, size, seed):
    rows = 6
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, object] = {
        name: torch.rand(rows, generator=generator) * scale if tensor else scale / 2
        for name, scale, tensor in zip(_POLICY, (1.0, 1.0, 3.0), per_row, strict=True)
    }
    if some_apply:
        options["applies"] = torch.rand(rows, generator=generator) < 0.5
    _assert_agrees(_logits(rows, size, seed), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("multiprocessors", [1, 108])
def test_infinities_and_nan_are_treated_as_by_the_policy(monkeypatch, dtype, multiprocessors):
    monkeypatch.setattr(launcher, "multiprocessors_of", lambda device: multiprocessors)
    inf, nan = math.inf, math.nan
    logits = _logits(14, 150, 0)
    logits[0] = -inf
    logits[1, 0] = logits[2, 149] = logits[3, 70] = nan
    logits[4] = nan
    logits[5, 3] = logits[6, 149] = inf
    logits[7] = inf
    logits[8, 3], logits[8, 120] = inf, nan
    logits[9, 3], logits[9, 120] = nan, inf
    logits[10] = -inf
    logits[10, 100] = 2.0  # certain
    logits[11, :140] = -inf
    logits[12, ::2] = -inf
    logits = logits.to(dtype)
    confidence, alpha = select_alpha(logits, **_POLICY)
    wanted = policy.confidence_of(logits)
    torch.testing.assert_close(confidence, wanted, rtol=1e-5, atol=0, equal_nan=True)
    chosen = policy.select_alpha(AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4), wanted)
    torch.testing.assert_close(alpha, chosen, rtol=0, atol=0)
    assert confidence[:10].isnan().all()
    assert (alpha[:10] == 1.5).all()
    assert confidence[10] == 1


@_OPTIONS
@given(rows=st.integers(1, 4), size=st.integers(2, 200), seed=st.integers(0, 2**16))
def test_agrees_with_the_policies_of_the_package(rows, size, seed):
    logits = _logits(rows, size, seed)
    confidence, alpha = select_alpha(logits, **_POLICY)
    wanted = policy.confidence_of(logits)
    torch.testing.assert_close(confidence, wanted, rtol=1e-5, atol=0)
    chosen = policy.select_alpha(AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4), wanted)
    clear = (wanted - 0.4).abs() > 1e-5
    torch.testing.assert_close(alpha[clear], chosen[clear], rtol=0, atol=0)
    _, same = select_alpha(logits, threshold=0.4, alpha_low=0.7, alpha_high=0.7)
    torch.testing.assert_close(same, policy.select_alpha(ScalingVis(alpha=0.7), wanted))


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_confidence_equal_to_the_threshold_takes_the_high_alpha(size, as_tensor):
    logits = torch.full((1, size), -math.inf)
    logits[0, [0, size - 1]] = 1.0  # two equal candidates: exactly one half
    for threshold, wanted in (
        (0.5, 1.5),
        (math.nextafter(0.5, 1), 1.5),  # rounds to 0.5 in float32, as in torch
        (float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))), 0.5),
    ):
        assert bool(torch.tensor(0.5) < threshold) is (wanted == 0.5)
        given = torch.tensor([threshold]) if as_tensor else threshold
        confidence, alpha = select_alpha(logits, threshold=given, alpha_low=0.5, alpha_high=1.5)
        assert confidence.item() == 0.5
        assert alpha.item() == wanted


def test_large_logits_keep_the_confidence_that_a_float32_log_sum_exp_loses():
    logits = torch.tensor([[1e5, 1e5 - 1, 1e5 - 2] + [-1e5] * 50])
    confidence, _ = select_alpha(logits, **_POLICY)
    exact, _ = select_alpha_reference(logits.double(), **_POLICY)
    torch.testing.assert_close(confidence.double(), exact, rtol=1e-6, atol=0)


def test_extreme_finite_logits_do_not_overflow():
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest] * 20, [-largest] * 40])
    confidence, _ = select_alpha(logits, **_POLICY)
    torch.testing.assert_close(confidence, torch.tensor([1 / 20, 1 / 40]))


def test_no_rows_give_no_results():
    confidence, alpha = select_alpha(torch.empty(0, 50), **_POLICY)
    assert confidence.shape == alpha.shape == (0,)


def test_per_request_values_may_be_strided():
    logits = _logits(4, 60, 0)
    table = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    applies = torch.tensor([[True, False]] * 4)[:, 1]
    options = {"threshold": table[:, 0], "alpha_low": table[:, 1], "alpha_high": table[:, 2]}
    _assert_agrees(logits, **options)
    assert (select_alpha(logits, **options, applies=applies)[1] == 1).all()


@pytest.mark.parametrize(
    ("rows", "size", "multiprocessors"), [(1, 300, 108), (5, 300, 3), (40, 33, 8), (3, 1, 108)]
)
def test_splits_cover_the_vocabulary_once(rows, size, multiprocessors):
    config = {"BLOCK_V": 16, "MAX_SPLITS": 8, "PROGRAMS_PER_MULTIPROCESSOR": 4}
    splits, blocks = launcher._splits(rows, size, config, multiprocessors)
    assert 1 <= splits <= 8
    assert (splits - 1) * blocks * 16 < size <= splits * blocks * 16
