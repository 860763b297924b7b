"""A linear probe: with the published training, or solved exactly by least squares.

The published training (200 steps of AdamW at 1e-3) moves a weight by 0.2 at most. It suits
embeddings in which places are written large; where they are a thousandth of the variance, as in the
embedded models, it ends where it began, and least squares tells what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from adaptvis.errors import DataError

__all__ = ["TRAININGS", "LinearProbe", "Training", "fit_probe", "split_by_group"]

Training = Literal["published", "least_squares"]
TRAININGS: tuple[Training, ...] = get_args(Training)

EPOCHS = 200
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
# Of the mean variance of a feature; enough to solve with fewer examples than features.
_RIDGE = 1e-8


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """``y = W h + b``: weight float32 [classes, D], bias float32 [classes]."""

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """The likeliest class of each vector [N, D]: int64 [N]."""
        return (features.float() @ self.weight.T + self.bias).argmax(dim=-1)


def fit_probe(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    training: Training = "published",
    seed: int = 0,
) -> LinearProbe:
    """Fit ``y = W h + b``.

    Args:
        features: [N, D]. labels: int64 [N], from 0 to classes - 1.
        training: "published" is cross-entropy (Dual Mechanisms, appendix and code): weights begin
            normal with deviation 1 / sqrt(D), biases at 0; AdamW with learning rate 1e-3 and weight
            decay 1e-4, 200 epochs of one full batch each. "least_squares" fits 0 and 1 for every
            class exactly, with a vanishing ridge.
        seed: of the first weights.

    Raises:
        DataError: a class has no example.
    """
    counts = torch.bincount(labels, minlength=classes)
    if len(labels) != len(features) or len(counts) > classes or not bool(counts.all()):
        raise DataError(
            f"A probe of {classes} classes needs examples of each, got {counts.tolist()} of "
            f"{len(features)} vectors; ask more questions"
        )
    if training == "least_squares":
        return _least_squares(features, labels, classes)
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    with torch.inference_mode(False), torch.enable_grad():
        inputs = features.detach().float().cpu().clone()
        weight = (torch.randn(classes, width, generator=generator) / width**0.5).requires_grad_()
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.AdamW([weight, bias], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels).backward()
            optimizer.step()
    return LinearProbe(weight.detach(), bias.detach())


def _least_squares(features: Tensor, labels: Tensor, classes: int) -> LinearProbe:
    inputs = features.detach().double().cpu()
    wanted = torch.nn.functional.one_hot(labels, classes).double()
    mean, middle = inputs.mean(dim=0), wanted.mean(dim=0)
    centred = inputs - mean
    covariance = centred.T @ centred
    ridge = _RIDGE * float(covariance.diagonal().mean())
    # Without any variance there is nothing to tell classes by.
    covariance += (ridge or 1.0) * torch.eye(len(mean), dtype=torch.float64)
    weight = torch.linalg.solve(covariance, centred.T @ (wanted - middle)).T
    return LinearProbe(weight.float(), (middle - weight @ mean).float())


def split_by_group(groups: Sequence[int], share: float, *, seed: int = 0) -> Tensor:
    """Which examples train: bool [N]; all examples of a group fall on one side.

    Args:
        groups: of each example, usually its picture. share: of the groups that train; at least
            one group is held out.

    Raises:
        DataError: fewer than two groups.
    """
    index = torch.tensor(list(groups))
    names = index.unique()
    if len(names) < 2:
        raise DataError(f"A split needs at least two pictures, got {len(names)}")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(len(names) * (1 - share)))
    return ~torch.isin(index, names[order[:held_out]])
