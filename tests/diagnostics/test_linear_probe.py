"""Probes: what is linear is found, by either training, and pictures are never on both sides."""

import numpy as np
import pytest
import torch

from adaptvis.diagnostics.linear_probe import fit_probe, split_by_group
from adaptvis.errors import DataError


def blobs(seed=0, count=90, width=6, distance=3.0):
    torch.manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.randn(count, width) + distance * torch.eye(width)[labels], labels


@pytest.mark.parametrize("training", ["published", "least_squares"])
def test_separated_classes_are_told_apart_on_unseen_examples(training):
    features, labels = blobs(count=300, width=32, distance=8.0)
    probe = fit_probe(features, labels, 3, training=training)
    unseen, truth = blobs(seed=1, count=300, width=32, distance=8.0)
    assert (probe.predict(unseen) == truth).float().mean() > 0.95


def test_the_published_training_step_by_step_in_float64():
    features, labels = blobs(count=30)
    probe = fit_probe(features, labels, 3, seed=5)
    # AdamW written out (Loshchilov and Hutter 2019, algorithm 2), gradients by hand.
    x, y = features.double().numpy(), np.eye(3)[labels.numpy()]
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(3, 6, generator=generator) / 6**0.5
    values = [start.double().numpy(), np.zeros(3)]
    moments = [[np.zeros_like(v), np.zeros_like(v)] for v in values]
    for step in range(1, 201):
        logits = x @ values[0].T + values[1]
        p = np.exp(logits - logits.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - y) / len(x)
        for index, gradient in enumerate((error.T @ x, error.sum(0))):
            first, second = moments[index]
            first[:] = 0.9 * first + 0.1 * gradient
            second[:] = 0.999 * second + 0.001 * gradient**2
            update = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            values[index] = values[index] * (1 - 1e-3 * 1e-4) - 1e-3 * update
    np.testing.assert_allclose(probe.weight.numpy(), values[0], atol=2e-5)
    np.testing.assert_allclose(probe.bias.numpy(), values[1], atol=2e-5)


def test_least_squares_agrees_with_numpy():
    features, labels = blobs()
    probe = fit_probe(features, labels, 3, training="least_squares")
    x = np.hstack([features.double().numpy(), np.ones((90, 1))])
    solution, *_ = np.linalg.lstsq(x, np.eye(3)[labels.numpy()], rcond=None)
    np.testing.assert_allclose(probe.weight.numpy(), solution[:-1].T, atol=1e-5)
    np.testing.assert_allclose(probe.bias.numpy(), solution[-1], atol=1e-5)


def test_least_squares_finds_what_is_a_thousandth_of_the_variance_and_200_steps_do_not():
    torch.manual_seed(0)
    labels = torch.arange(120) % 2
    features = 50 * torch.randn(120, 4) @ torch.randn(4, 16)
    features[:, 15] = features[:, 14] + 0.5 * (2 * labels - 1)
    exact = fit_probe(features, labels, 2, training="least_squares")
    assert (exact.predict(features) == labels).all()
    published = fit_probe(features, labels, 2)
    assert (published.predict(features) == labels).float().mean() < 0.9


def test_the_examples_of_a_picture_stay_together():
    groups = [n // 3 for n in range(60)]
    trains = split_by_group(groups, 0.75, seed=1)
    sides = {g: {bool(trains[i]) for i in range(60) if groups[i] == g} for g in set(groups)}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 15
    assert torch.equal(trains, split_by_group(groups, 0.75, seed=1))
    assert not torch.equal(trains, split_by_group(groups, 0.75, seed=2))


def test_a_class_without_examples_and_a_single_picture_are_refused():
    with pytest.raises(DataError, match=r"examples of each, got \[2, 0, 0\]"):
        fit_probe(torch.ones(2, 3), torch.tensor([0, 0]), 3)
    with pytest.raises(DataError, match="at least two pictures, got 1"):
        split_by_group([7, 7, 7], 0.75)


def test_gradients_are_made_even_in_inference_mode():
    features, labels = blobs()
    with torch.inference_mode():
        inside = fit_probe(features, labels, 3)
    torch.testing.assert_close(inside.weight, fit_probe(features, labels, 3).weight)
