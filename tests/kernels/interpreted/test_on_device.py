"""How the other tests here reach a GPU: by copies with the same strides; and the trial launch."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from adaptvis_kernels.support import try_launch

Pair = namedtuple("Pair", ["first", "second"])
CPU = torch.device("cpu")


def test_copies_keep_strides_values_and_gradients(on_device: Callable[..., Any]) -> None:
    whole = torch.arange(60.0).view(3, 4, 5)
    views = [whole[1:, ::2, 1:4], whole.transpose(0, 2), whole[:1].expand(7, 4, 5)]

    def check(*copies: torch.Tensor, option: torch.Tensor) -> Pair:
        for copy, view in zip(copies, views, strict=True):
            assert copy.stride() == view.stride()
            assert torch.equal(copy, view)
            assert copy.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
        return Pair(copies[0].sum(), (option**2).sum())

    leaf = torch.tensor([3.0], requires_grad=True)
    result = on_device(check, CPU)(*views, option=leaf)
    assert isinstance(result, Pair)
    assert result.first == views[0].sum()
    result.second.backward()
    assert leaf.grad == 6


def test_a_device_that_can_launch_passes_the_trial() -> None:
    try_launch(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
