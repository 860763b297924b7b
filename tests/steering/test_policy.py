"""Confidence and the choice of the coefficient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.steering import backend
from adaptvis.steering.policy import confidence_of, cut_of, may_select_one, select_alpha


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


def as_the_authors_code(value: float, threshold: float) -> bool:
    """`np.round(float(...), 2) < threshold`: model_zoo/llava15.py of shiqichen17/AdaptVis."""
    return bool(np.round(value, 2) < threshold)


def around(value: float) -> list[float]:
    """A float32 and its three neighbours on each side."""
    below = above = np.float32(value)
    found = [float(below)]
    for _ in range(3):
        below, above = np.nextafter(below, np.float32(-1)), np.nextafter(above, np.float32(2))
        found += [float(below), float(above)]
    return [v for v in found if 0 <= v <= 1]


@pytest.mark.parametrize("compared", ["rounded_confidence", "rounded_logit"])
def test_the_authors_rounding_on_both_sides_of_every_edge(compared):
    """Thresholds of two decimals and others; ties go to the even digit: 0.125 is 0.12."""
    edges = [v for hundred in range(101) for v in around((hundred + 0.5) / 100)]
    values = torch.tensor([*edges, *(v for h in range(101) for v in around(h / 100))])
    for threshold in [*(h / 100 for h in range(101)), 0.001, 0.355, 0.3999, 0.999]:
        config = AdaptVis(alpha_low=0.5, alpha_high=2, threshold=threshold, compared=compared)
        expected = [0.5 if as_the_authors_code(v, threshold) else 2.0 for v in values.tolist()]
        assert select_alpha(config, values).tolist() == expected, threshold
        assert cut_of(config) == np.float32(cut_of(config))


def test_a_tie_goes_to_the_even_digit():
    """0.125 and 0.375 are exact in binary, and round to 0.12 and 0.38."""
    for value, threshold, below in ((0.125, 0.13, True), (0.375, 0.38, False)):
        config = AdaptVis(threshold=threshold, compared="rounded_confidence")
        assert as_the_authors_code(value, threshold) == below
        assert select_alpha(config, torch.tensor([value])).tolist() == [0.5 if below else 1.5]


def test_rounding_changes_what_the_papers_rule_decides():
    values = torch.tensor([0.394, 0.396, 0.4])
    assert select_alpha(AdaptVis(), values).tolist() == [0.5, 0.5, 1.5]
    rounding = AdaptVis(compared="rounded_confidence")
    assert select_alpha(rounding, values).tolist() == [0.5, 1.5, 1.5]


# The largest logit, and with it the largest probability, in two rows each.
LOGITS = torch.tensor([[0.636, 0.0, 0.0], [0.634, 0.0, 0.0], [9.0, 8.9, 8.8], [-1.0, -9.0, -9.0]])
ALL = torch.ones(len(LOGITS), dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logit_rule_compares_the_largest_logit_and_reports_the_confidence(dtype):
    config = AdaptVis(alpha_low=0.5, alpha_high=1.2, threshold=0.64, compared="rounded_logit")
    logits = LOGITS.to(dtype)
    confidence, alpha = backend.decide(config, logits, ALL)
    largest = [float(row.max()) for row in logits]
    expected = [0.5 if as_the_authors_code(v, 0.64) else 1.2 for v in largest]
    assert len(set(expected)) == 2
    assert alpha.tolist() == pytest.approx(expected)
    torch.testing.assert_close(confidence, logits.double().softmax(-1).amax(-1).float())
    none = backend.decide(config, logits, ~ALL)[1]
    assert none.tolist() == [1.0] * len(logits)


def test_a_batch_of_different_rules_decides_each_by_its_own():
    configs = [
        AdaptVis(alpha_low=0.5, alpha_high=1.2, threshold=0.64, compared="rounded_logit"),
        AdaptVis(alpha_low=0.5, alpha_high=1.2, threshold=0.64),
        ScalingVis(alpha=3.0),
        AdaptVis(alpha_low=0.5, alpha_high=1.2, threshold=1.0, compared="rounded_confidence"),
    ]
    confidence, alpha = backend.decide_each(LOGITS, configs)
    for row, config in enumerate(configs):
        alone = backend.decide(config, LOGITS[row : row + 1], ALL[:1])
        assert (confidence[row], alpha[row]) == (alone[0][0], alone[1][0])
    assert alpha.tolist() == pytest.approx([1.2, 0.5, 3.0, 1.2])
