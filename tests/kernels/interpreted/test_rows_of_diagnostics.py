"""The attention instrument's rows by the kernel, against the same rows in torch."""

import pytest
import torch
from torch import nn

from adaptvis.diagnostics.attention.parts import PromptParts
from adaptvis.diagnostics.attention.rows import rows_attention
from adaptvis.hf.observation import LayerAttention
from adaptvis.steering.backend import override_backend

LENGTH, ROWS = 60, 9
IMAGE = slice(7, 40)


def parts() -> PromptParts:
    image = torch.zeros(LENGTH, dtype=torch.bool)
    image[IMAGE] = True
    system = torch.arange(LENGTH) < IMAGE.start
    # The user's words stand on both sides of the image, with markup around them.
    text = torch.zeros(LENGTH, dtype=torch.bool)
    text[[4, 5, *range(42, 56)]] = True
    return PromptParts(system & ~text, image, text)


def layer(width: int = LENGTH, **options) -> LayerAttention:
    generator = torch.Generator().manual_seed(0)
    return LayerAttention(
        layer=0,
        module=nn.Identity(),
        query=torch.randn(1, 4, ROWS, 16, generator=generator),
        key=torch.randn(1, 2, width, 16, generator=generator),
        scaling=0.3,
        tokens_seen=LENGTH,
        **{"mask": None, "softcap": None, **options},
    )


def steered(heads=None) -> dict:
    alpha = torch.ones(1, ROWS)
    alpha[0, 4:] = 2.5
    return {"columns": parts().image[None], "row_alpha": alpha, "heads": heads}


def window() -> dict:
    row = torch.arange(LENGTH - ROWS, LENGTH)[:, None]
    column = torch.arange(LENGTH)[None]
    return {"mask": ((column <= row) & (row - column < 16))[None, None]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        steered(),
        steered(torch.tensor([True, False, True, False])),
        window(),
        {"softcap": 5.0},
        # A cache that no longer shows the first 20 keys.
        {"width": 40},
    ],
    ids=["plain", "steered", "some heads", "window", "softcap", "old keys dropped"],
)
def test_kernel_and_torch_agree(options) -> None:
    attention = layer(**options)
    positions = torch.tensor([LENGTH - 1, LENGTH - 5, LENGTH - ROWS])
    with override_backend("triton"):
        found = rows_attention(attention, positions, parts())
    with override_backend("torch"):
        wanted = rows_attention(attention, positions, parts())
    for name, a, b in zip(wanted._fields, found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5, equal_nan=True, msg=name)
