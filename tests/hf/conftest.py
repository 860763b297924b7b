"""``ADAPTVIS_TEST_DEVICE=cuda`` runs the tests of this folder on a GPU."""

from collections.abc import Generator, Iterator
from functools import cache

import pytest
import torch
from hf.tiny_families import DEVICE, build

from adaptvis import unpatch
from adaptvis.errors import UnsupportedError
from adaptvis.hf.library import decoding_fault


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """On a transformers that decodes a family wrongly, its refusal is what a test has to see."""
    try:
        return (yield)
    except UnsupportedError as refusal:
        if str(refusal) != _decodes_wrongly("paligemma"):
            raise
        # The models are shared, and the test has not come to its own end.
        unpatch(build("paligemma")[0])
        pytest.skip(f"refused: {refusal}")


@cache
def _decodes_wrongly(family: str) -> str:
    return decoding_fault(build(family)[0])
