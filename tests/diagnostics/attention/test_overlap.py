"""Token boxes against object boxes, by hand; and weights painted onto pixels."""

import numpy as np
import pytest

from adaptvis.diagnostics.attention.map_drawing import paint
from adaptvis.diagnostics.attention.overlap import attention_on_boxes, box_coverage
from adaptvis.diagnostics.attention.rows import balance

# Four quarters of the image, and a token without a place.
QUARTERS = np.array(
    [
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
        [np.nan, np.nan, np.nan, np.nan],
    ]
)


def test_parts_of_tokens_in_boxes() -> None:
    # The left half of the first quarter, and all of the last.
    covered = box_coverage(QUARTERS, [(0.0, 0.0, 0.25, 0.5), (0.5, 0.5, 1.0, 1.0)])
    np.testing.assert_allclose(covered, [0.5, 0, 0, 1, 0])


def test_a_token_counts_once_at_most() -> None:
    covered = box_coverage(QUARTERS, [(0, 0, 1, 1), (0, 0, 0.25, 0.25)])
    np.testing.assert_allclose(covered, [1, 1, 1, 1, 0])


def test_attention_on_boxes_is_part_of_that_on_the_image() -> None:
    weights = np.array([[0.1, 0.1, 0.0, 0.2, 0.0], [0, 0, 0, 0, 0]])
    found = attention_on_boxes(weights, np.array([0.5, 0, 0, 1, 0]))
    assert found[0] == pytest.approx((0.05 + 0.2) / 0.4)
    assert np.isnan(found[1])


def test_balance_leaves_the_system_prompt_out() -> None:
    image, text = np.array([0.1, 0.0]), np.array([0.3, 0.0])
    np.testing.assert_allclose(balance(image, text), [0.25, 0])


def test_painting_keeps_the_weight() -> None:
    painted = paint([0.1, 0.2, 0.3, 0.4, 9.0], QUARTERS, (8, 6))
    assert painted.shape == (6, 8)
    assert painted.sum() == pytest.approx(1)
    assert painted[0, 0] == pytest.approx(0.1 / 12)
    assert painted[5, 7] == pytest.approx(0.4 / 12)


def test_a_token_thinner_than_a_pixel_is_painted() -> None:
    painted = paint([1.0], np.array([[0.0, 0.0, 0.01, 0.01]]), (8, 8))
    assert painted[0, 0] == pytest.approx(1)
