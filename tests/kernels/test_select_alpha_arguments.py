"""Bad input is refused before anything is launched; shapes alone decide what is launched."""

from __future__ import annotations

import math

import pytest
import torch
from adaptvis_kernels.launching import record_launches
from adaptvis_kernels.ops.select_alpha import select_alpha

_POLICY = {"threshold": 0.4, "alpha_low": 0.5, "alpha_high": 1.5}


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": _meta(4)}, r"logits must have shape \[R, V\], got \[4\]"),
        ({"logits": _meta(4, 8, dtype=torch.float64)}, "logits must have dtype float32 or"),
        ({"logits": _meta(4, 0)}, "1 to 1073741824 columns, got 0"),
        ({"threshold": _meta(3)}, r"threshold must have shape \[4\], got \[3\]"),
        ({"threshold": _meta()}, r"threshold must have shape \[4\], got \[\]"),
        ({"alpha_low": _meta(4, dtype=torch.float64)}, "alpha_low must have dtype float32, got"),
        (
            {"alpha_high": math.nan},
            "alpha_high must be a number that is finite in float32 or .*, got nan",
        ),
        ({"alpha_low": -1e39}, r"alpha_low must be a number that is finite .*, got -1e\+39"),
        (
            {"threshold": "0.4"},
            "threshold must be a number that is finite in float32 or .*, got '0.4'",
        ),
        ({"applies": _meta(4)}, "applies must have dtype bool, got float32"),
        ({"applies": _meta(5, dtype=torch.bool)}, r"applies must have shape \[4\], got \[5\]"),
        ({"threshold": torch.zeros(4)}, "threshold must be on the device of logits, meta, got cpu"),
    ],
)
def test_bad_input_is_refused(changes, message):
    arguments = {"logits": _meta(4, 8), **_POLICY, **changes}
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        select_alpha(arguments.pop("logits"), **arguments)
    assert not launches


def test_a_cpu_tensor_is_refused_without_the_interpreter():
    with pytest.raises(ValueError, match="logits must be on a CUDA or ROCm device, got cpu"):
        select_alpha(torch.zeros(2, 5), **_POLICY)


@pytest.mark.parametrize(("rows", "kernels"), [(1, 2), (16, 2), (1000, 1)])
def test_few_rows_are_split_and_many_take_one_pass(rows, kernels):
    with record_launches("sm_90") as launches:
        confidence, alpha = select_alpha(_meta(rows, 152064, dtype=torch.bfloat16), **_POLICY)
    assert len(launches) == kernels
    assert confidence.shape == alpha.shape == (rows,)
    assert confidence.dtype == alpha.dtype == torch.float32
    assert launches[0].grid[0] == rows
    assert (launches[0].grid[1] > 1) == (kernels == 2)


def test_no_rows_launch_nothing():
    with record_launches("sm_90") as launches:
        select_alpha(_meta(0, 100), **_POLICY)
    assert not launches
