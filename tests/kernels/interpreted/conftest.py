"""These tests run kernels on a CPU in Triton's interpreter, in a process of their own; or on a GPU.

``TRITON_INTERPRET=1`` is read when triton is imported, so it must be set before pytest starts:
``TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted``. Without it the same tests run the
compiled kernels where there is a GPU, and nothing is collected where there is none. Inputs and
references stay on the CPU; the kernels' arguments are moved to the GPU, and their results back.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = not INTERPRETED and torch.cuda.is_available()
if not INTERPRETED and not ON_GPU:
    collect_ignore_glob = ["test_*.py"]

_LAUNCHERS = (
    "image_attention",
    "normalize_projection",
    "rescale_norms",
    "select_alpha",
    "steered_decode",
    "steered_paged_decode",
    "steered_prefill",
    "steered_prefill_varlen",
)


def _moved(value: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return move(value)
    if isinstance(value, tuple):
        parts = [_moved(part, move) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _with_strides(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device with the same strides over the same storage; differentiable."""
    if tensor.requires_grad:
        return tensor.to(device)
    storage = tensor.untyped_storage()
    flat = torch.tensor([], dtype=tensor.dtype)
    flat.set_(storage, 0, (storage.nbytes() // tensor.element_size(),))
    copy = torch.empty(flat.shape, dtype=flat.dtype, device=device).copy_(flat)
    return copy.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        def there(tensor: torch.Tensor) -> torch.Tensor:
            return _with_strides(tensor, device)

        result = function(
            *(_moved(argument, there) for argument in arguments),
            **{name: _moved(option, there) for name, option in options.items()},
        )
        return _moved(result, lambda tensor: tensor.cpu())

    return wrapped


@pytest.fixture
def on_device() -> Callable[..., Any]:
    """Wraps a function of tensors so that it runs on a device."""
    return _on_device


@pytest.fixture(autouse=True)
def _kernels_run_on_the_gpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ON_GPU:
        return
    import adaptvis_kernels

    for module in (request.module, adaptvis_kernels):
        for name in _LAUNCHERS:
            if hasattr(module, name):
                wrapped = _on_device(getattr(module, name), torch.device("cuda"))
                monkeypatch.setattr(module, name, wrapped)
