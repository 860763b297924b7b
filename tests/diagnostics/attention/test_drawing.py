"""What the pictures of the attention instruments show, read from the drawn figures."""

import warnings

import pytest
from diagnostics.attention.test_measure import TASK, Answering, samples

from adaptvis.config import ScalingVis
from adaptvis.diagnostics.attention.maps import measure_attention_maps
from adaptvis.diagnostics.attention.measure import measure_attention
from adaptvis.diagnostics.rope.measure import measure_rope


def drawn_maps(figure):
    return [image for axes in figure.axes for image in axes.images]


def test_entropy_and_balance_have_the_same_scale_in_every_picture() -> None:
    figure = measure_attention(Answering("llava"), TASK, samples()).figure()
    assert [image.get_clim() for image in drawn_maps(figure)] == [(0, 1), (0, 1)]


def test_without_wrong_answers_the_picture_says_so_and_nothing_warns() -> None:
    config = ScalingVis(alpha=2)
    result = measure_attention(Answering("llava"), TASK, samples()[1:2], config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = result.figure()
        figure.canvas.draw()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["no AUROC: there are no wrong answers\n(1 right, 0 wrong)"]


def test_signed_values_have_a_light_middle_at_0() -> None:
    figure = measure_rope(Answering("llava"), samples()).figure()
    for image in drawn_maps(figure):
        low, high = image.get_clim()
        assert low == -high
        at_zero, at_low, at_high = (sum(image.cmap(x)[:3]) for x in (0.5, 0.0, 1.0))
        assert at_zero > 2 * max(at_low, at_high)


def test_the_colour_bar_of_maps_ends_in_the_largest_share_of_a_token() -> None:
    result = measure_attention_maps(Answering("llava"), samples()[:1])
    figure = result.figure()
    (weights,) = result.examples[0].maps.values()
    labels = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert labels[-1].endswith(" %")
    assert float(labels[-1].removesuffix(" %")) == pytest.approx(100 * weights.max(), rel=0.05)
