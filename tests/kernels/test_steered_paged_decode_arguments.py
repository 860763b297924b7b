"""Bad arguments of steered_paged_decode are refused before any launch, saying what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adaptvis_kernels.launching import record_launches
from adaptvis_kernels.ops.steered_paged_decode import steered_decode, steered_paged_decode


def _arguments(**changes: Any) -> dict[str, Any]:
    def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    arguments = {
        "query": empty(4, 8, 64),
        "key_cache": empty(10, 16, 2, 64),
        "value_cache": empty(10, 16, 2, 64),
        "block_table": empty(4, 3, dtype=torch.int32),
        "sequence_lengths": empty(4, dtype=torch.int32),
        "row_alpha": empty(4, dtype=torch.float32),
        "image_columns": empty(4, 48, dtype=torch.bool),
    }
    for name, change in changes.items():
        arguments[name] = change(empty) if callable(change) else change
    return arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": lambda e: e(4, 64)}, r"query must have shape \[T, H, D\], got \[4, 64\]"),
        ({"query": lambda e: e(4, 9, 64)}, "multiple of the 2 key/value heads, got 9"),
        ({"query": lambda e: e(4, 8, 512)}, "head size must be 1 to 256, got 512"),
        ({"query": lambda e: e(4, 8, 64, dtype=torch.int8)}, "query must have dtype float32 or"),
        (
            {"key_cache": lambda e: e(10, 16, 2, 64, dtype=torch.float32)},
            "key_cache must have dtype float16, got float32",
        ),
        ({"value_cache": lambda e: e(10, 8, 2, 64)}, r"value_cache must have shape \[10, 16"),
        ({"row_alpha": lambda e: e(3, dtype=torch.float32)}, r"row_alpha must have shape \[4\]"),
        ({"row_alpha": lambda e: e(4)}, "row_alpha must have dtype float32, got float16"),
        ({"sequence_lengths": lambda e: e(4, dtype=torch.int64)}, "must have dtype int32"),
        ({"image_columns": lambda e: e(3, 48, dtype=torch.bool)}, r"shape \[4, N\]"),
        ({"image_columns": lambda e: e(4, 48)}, "must have dtype bool, got float16"),
        ({"image_spans": lambda e: e(4, 1, 2, dtype=torch.int32)}, "give one of them, got both"),
        ({"heads": lambda e: e(2, dtype=torch.bool)}, r"heads must have shape \[8\], got \[2\]"),
        ({"window": 0}, "window must be positive, got 0"),
        ({"softcap": -1.0}, "softcap must be a number that is finite and above 0.*, got -1.0"),
        ({"softcap": 1e-50}, "softcap must be a number that is finite and above 0 in float32"),
        ({"scaling": 1e39}, r"scaling must be a number that is finite in float32, got 1e\+39"),
        (
            {"max_length": 49},
            "image_columns must have at least max_length = 49 columns, got 48",
        ),
        (
            {
                "max_length": 49,
                "image_columns": None,
                "visible": lambda e: e(4, 40, dtype=torch.bool),
            },
            "visible must have at least max_length = 49 columns, got 40",
        ),
        (
            {"key_cache": lambda e: e(10, 16, 2, 64).requires_grad_()},
            "has no backward pass and expects inputs without gradients .*, got key_cache that",
        ),
        (
            {"row_alpha": lambda e: e(4, dtype=torch.float32).requires_grad_()},
            "got row_alpha that requires one",
        ),
        ({"num_splits": 0}, "num_splits must be positive"),
        (
            {"window": 4, "visible": lambda e: e(4, 48, dtype=torch.bool)},
            "visible replaces causality and window",
        ),
        ({"row_starts": lambda e: e(5, dtype=torch.int32)}, "row_starts needs max_rows"),
        (
            {
                "query": lambda e: e(5, 8, 64),
                "row_alpha": lambda e: e(5, dtype=torch.float32),
            },
            "equally many rows for each of 4 requests, got 5",
        ),
        (
            {"row_alpha": torch.ones(4)},
            "row_alpha must be on the device of query, meta, got cpu",
        ),
    ],
)
def test_bad_argument_is_refused_with_expected_and_got(
    changes: dict[str, Any], message: str
) -> None:
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        steered_paged_decode(**_arguments(**changes))
    assert launches == []


def test_good_arguments_launch() -> None:
    with record_launches("sm_90") as launches:
        output = steered_paged_decode(**_arguments())
    assert output.shape == (4, 8, 64)
    assert len(launches) == 1


def test_inputs_with_gradients_are_fine_where_none_is_asked_for() -> None:
    with record_launches("sm_90") as launches, torch.no_grad():
        steered_paged_decode(**_arguments(query=lambda e: e(4, 8, 64).requires_grad_()))
    assert len(launches) == 1


@pytest.mark.parametrize(("batch", "rows"), [(0, 1), (0, 0), (2, 0)])
def test_no_requests_and_no_rows_give_empty_outputs(batch: int, rows: int) -> None:
    def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    total = batch * rows
    with record_launches("sm_90") as launches:
        dense, log_sum_exp = steered_decode(
            empty(batch, 8, rows, 64),
            empty(batch, 2, 9, 64),
            empty(batch, 2, 9, 64),
            row_alpha=empty(batch, rows, dtype=torch.float32),
            return_log_sum_exp=True,
        )
        paged = steered_paged_decode(
            empty(total, 8, 64),
            empty(10, 16, 2, 64),
            empty(10, 16, 2, 64),
            block_table=empty(batch, 3, dtype=torch.int32),
            sequence_lengths=empty(batch, dtype=torch.int32),
            row_alpha=empty(total, dtype=torch.float32),
        )
    assert not launches
    assert dense.shape == (batch, 8, rows, 64)
    assert log_sum_exp.shape == (batch, 8, rows)
    assert paged.shape == (total, 8, 64)


def test_dense_form_needs_a_mask_for_more_rows_than_tokens() -> None:
    query, key = torch.zeros(1, 4, 10, 32, device="meta"), torch.zeros(1, 2, 9, 32, device="meta")
    alpha = torch.ones(1, 10, device="meta")
    message = "query must hold the last of the 9 tokens of key, got 10 rows"
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        steered_decode(query, key, key, row_alpha=alpha)
    assert not launches
    visible = torch.ones(1, 10, 9, dtype=torch.bool, device="meta")
    with record_launches("sm_90") as launches:
        steered_decode(query, key, key, row_alpha=alpha, visible=visible)
    assert launches


def test_long_contexts_are_split_and_merged() -> None:
    with record_launches("sm_90") as launches:
        steered_paged_decode(**_arguments(max_length=32768, image_columns=None))
    names = [launch.kernel.__name__ for launch in launches]
    assert names == ["steered_paged_decode_kernel", "merge_splits_kernel"]


def test_tensors_outside_a_gpu_are_refused() -> None:
    arguments = {
        name: torch.zeros(value.shape, dtype=value.dtype) for name, value in _arguments().items()
    }
    with pytest.raises(ValueError, match="must be on a CUDA or ROCm device, got cpu"):
        steered_paged_decode(**arguments)


def test_dense_form_refuses_a_mask_of_another_shape() -> None:
    query, key = torch.zeros(2, 4, 3, 32), torch.zeros(2, 2, 9, 32)
    with pytest.raises(ValueError, match=r"visible must have shape \[2, 3, 9\], got \[2, 1, 9\]"):
        steered_decode(
            query,
            key,
            key,
            row_alpha=torch.ones(2, 3),
            visible=torch.ones(2, 1, 9, dtype=torch.bool),
        )
