"""Bad input is refused before anything is launched; shapes alone decide what is launched."""

from __future__ import annotations

import math

import pytest
import torch
from adaptvis_kernels.launching import record_launches
from adaptvis_kernels.ops.rescale_norms import normalize_projection, passes, rescale_norms

_NORMS = {"max_norm": 1.22, "target_mean": 0.83}


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": _meta()}, r"embeddings must have shape \[..., D\], got a scalar"),
        ({"embeddings": _meta(2, 8, dtype=torch.float64)}, "embeddings must have dtype float32 or"),
        ({"embeddings": _meta(2, 16385)}, "at most 16384, got 16385"),
        ({"target": 0.0}, "target must be a number that is finite and above 0 in float32, got 0.0"),
        (
            {"clip": math.inf},
            "clip must be a number that is finite and above 0 in float32, got inf",
        ),
        ({"target": 1e-50}, "target must be a number .* above 0 in float32, got 1e-50"),
        ({"clip": 1e39}, r"clip must be a number that is finite .*, got 1e\+39"),
        (
            {"clip": "text"},
            "clip must be a number that is finite and above 0 in float32, got 'text'",
        ),
    ],
)
def test_bad_input_to_the_rescaling_is_refused(changes, message):
    arguments = {"embeddings": _meta(2, 8), "target": 0.83, "clip": None, **changes}
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        rescale_norms(arguments.pop("embeddings"), **arguments)
    assert not launches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": _meta(2, 8, dtype=torch.int32)}, "features must have dtype float32 or"),
        ({"features": _meta(2, 8193)}, "at most 8192, got 8193"),
        ({"weight": _meta(9)}, r"weight must have shape \[8\], got \[9\]"),
        ({"weight": _meta(8, dtype=torch.float64)}, "weight must have dtype float32 or"),
        ({"weight": torch.ones(8)}, "weight must be on the device of features, meta, got cpu"),
        (
            {"max_norm": -1.0},
            "max_norm must be a number that is finite and above 0 in float32, got -1.0",
        ),
        (
            {"target_mean": math.nan},
            "target_mean must be a number that is finite and above 0 in float32, got nan",
        ),
        ({"eps": 1e-50}, "eps must be a number .* above 0 in float32, got 1e-50"),
        ({"eps": 0.0}, "eps must be a number that is finite and above 0 in float32, got 0.0"),
    ],
)
def test_bad_input_to_the_normalization_is_refused(changes, message):
    arguments = {"features": _meta(2, 8), "weight": _meta(8), **_NORMS, **changes}
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        normalize_projection(arguments.pop("features"), arguments.pop("weight"), **arguments)
    assert not launches


def test_a_cpu_tensor_is_refused_without_the_interpreter():
    with pytest.raises(ValueError, match="embeddings must be on a CUDA or ROCm device, got cpu"):
        rescale_norms(torch.zeros(2, 5), target=0.83, clip=None)


def test_rows_apart_are_read_where_they_are():
    apart = _meta(4, 100, 96)[:, :, :64]
    with record_launches("sm_90") as launches:
        rescale_norms(apart, target=0.83, clip=None)
    (launch,) = launches
    assert launch.arguments["stride_row"] == 96
    assert launch.arguments["embeddings"].shape == (400, 64)


@pytest.mark.parametrize("rows", [1, 107, 108, 500, 576, 100_000])
@pytest.mark.parametrize("hidden_size", [128, 896, 4096, 8192])
def test_programs_of_the_weight_gradient_stay_few(rows, hidden_size):
    features, weight = _meta(rows, hidden_size), _meta(hidden_size)
    with record_launches("sm_90") as launches:
        passes.normalize_backward(features, weight, features, 1.22, 0.83, 1e-6)
    (launch,) = launches
    (programs,) = launch.grid
    assert 1 <= programs <= min(rows, 4 * 108)
    assert launch.arguments["weight_gradients"].shape == (programs, hidden_size)
    assert launch.arguments["num_blocks"] * launch.arguments["BLOCK_ROWS"] >= rows
