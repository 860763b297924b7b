"""``ADAPTVIS_TEST_DEVICE=cuda`` runs the tests of this folder on a GPU."""

from collections.abc import Iterator

import pytest
import torch
from hf.tiny_families import DEVICE


@pytest.fixture(autouse=True)
def _leaves_torch_as_it_was() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    """What a test makes itself lies beside the model."""
    if DEVICE == "cpu":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    # The vision towers' convolutions would keep 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)
    torch.backends.cudnn.allow_tf32 = before
