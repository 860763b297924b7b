"""Confidence and the choice of the coefficient."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.steering.policy import confidence_of, may_select_one, select_alpha


@given(st.lists(st.floats(-80, 80), min_size=2, max_size=50))
def test_confidence_is_the_largest_softmax_probability(logits):
    largest = max(logits)
    expected = 1 / math.fsum(math.exp(value - largest) for value in logits)
    confidence = float(confidence_of(torch.tensor(logits, dtype=torch.float64)))
    assert math.isclose(confidence, expected, rel_tol=1e-5)


def test_confidence_of_half_precision_logits_is_taken_in_float32():
    logits = torch.tensor([[4.0, 3.0, 1.0]], dtype=torch.bfloat16)
    assert confidence_of(logits).dtype == torch.float32
    torch.testing.assert_close(confidence_of(logits), logits.double().softmax(-1).amax(-1).float())


def test_adaptvis_compares_strictly_and_without_rounding():
    config = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)
    confidence = torch.tensor([0.396, 0.39999, 0.4, 0.41])
    assert select_alpha(config, confidence).tolist() == [0.5, 0.5, 1.5, 1.5]


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_threshold_zero_is_always_high_and_each_prompt_decides_alone(first, second):
    config = AdaptVis(alpha_low=0.25, alpha_high=2, threshold=0)
    assert select_alpha(config, torch.tensor([first, second])).tolist() == [2, 2]


def test_scaling_vis_ignores_confidence():
    alpha = select_alpha(ScalingVis(alpha=1.25), torch.tensor([0.1, 0.9]))
    assert alpha.tolist() == [1.25, 1.25]


def test_which_configurations_may_leave_a_prompt_untouched():
    assert may_select_one(ScalingVis(alpha=1))
    assert may_select_one(AdaptVis(alpha_low=1))
    assert may_select_one(AdaptVis(alpha_high=1))
    assert not may_select_one(AdaptVis())
