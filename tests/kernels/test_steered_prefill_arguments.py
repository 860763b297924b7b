"""Steered prefill: what does not fit is refused before launch; configurations, grid and cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adaptvis_kernels.launching import Launch, record_launches
from adaptvis_kernels.ops.steered_prefill import steered_prefill, steered_prefill_varlen
from adaptvis_kernels.ops.steered_prefill.cost import cost
from adaptvis_kernels.ops.steered_prefill.reference import visible_columns
from torch import Tensor

INT = torch.int32


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def dense(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "query": meta(2, 8, 5, 64),
        "key": meta(2, 4, 9, 64),
        "value": meta(2, 4, 9, 64),
        "row_alpha": meta(2, 5),
    }
    return arguments | changes


def varlen(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "query": meta(50, 8, 64),
        "key": meta(90, 4, 64),
        "value": meta(90, 4, 64),
        "query_starts": meta(4, dtype=INT),
        "key_starts": meta(4, dtype=INT),
        "max_rows": 20,
        "row_alpha": meta(50),
    }
    return arguments | changes


def launched(call: Callable[..., object], arguments: dict[str, Any]) -> list[Launch]:
    with record_launches("sm_90") as launches:
        call(**arguments)
    return launches


MASK = meta(2, 5, 9, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": meta(8, 5, 64)}, "query must have shape [B, H, R, D], got [8, 5, 64]"),
        ({"key": meta(2, 4, 9, 32)}, "key must have shape [2, G, N, 64], got [2, 4, 9, 32]"),
        ({"value": meta(2, 4, 9, 32)}, "value must have shape [2, 4, 9, 64], got [2, 4, 9, 32]"),
        ({"value": meta(2, 4, 8, 64)}, "value must have shape [2, 4, 9, 64], got [2, 4, 8, 64]"),
        ({"row_alpha": meta(2, 4)}, "row_alpha must have shape [2, 5], got [2, 4]"),
        (
            {"row_alpha": meta(2, 5, dtype=torch.bfloat16)},
            "row_alpha must have dtype float32, got bfloat16",
        ),
        (
            {"key": meta(2, 3, 9, 64), "value": meta(2, 3, 9, 64)},
            "query heads must be a multiple of the 3 key/value heads, got 8",
        ),
        (
            {"key": meta(2, 0, 9, 64), "value": meta(2, 0, 9, 64)},
            "query heads must be a multiple of the 0 key/value heads, got 8",
        ),
        (
            {name: meta(2, 4, 9, 257) for name in ("query", "key", "value")}
            | {"row_alpha": meta(2, 9)},
            "head size must be 1 to 256, got 257",
        ),
        (
            {"query": meta(2, 8, 10, 64), "row_alpha": meta(2, 10)},
            "query must hold the last of the 9 tokens of key, got 10 rows",
        ),
        (
            {"query": meta(2, 8, 5, 64, dtype=torch.float64)},
            "query must have dtype float32 or float16 or bfloat16, got float64",
        ),
        (
            {"value": meta(2, 4, 9, 64, dtype=torch.float16)},
            "value must have dtype float32, got float16",
        ),
        (
            {"image_columns": meta(2, 8, dtype=torch.bool)},
            "image_columns must have shape [2, 9], got [2, 8]",
        ),
        ({"image_columns": meta(2, 9)}, "image_columns must have dtype bool, got float32"),
        (
            {"image_spans": meta(2, 3, dtype=INT)},
            "image_spans must have shape [2, spans, 2], got [2, 3]",
        ),
        (
            {
                "image_spans": meta(2, 1, 2, dtype=INT),
                "image_columns": meta(2, 9, dtype=torch.bool),
            },
            "image_columns and image_spans say the same thing: give one of them, got both",
        ),
        (
            {"bidirectional_spans": meta(2, 1, 2)},
            "bidirectional_spans must have dtype int32, got float32",
        ),
        (
            {"bidirectional_spans": meta(1, 1, 2, dtype=INT)},
            "bidirectional_spans must have shape [2, spans, 2], got [1, 1, 2]",
        ),
        (
            {"first_columns": meta(2, dtype=torch.int64)},
            "first_columns must have dtype int32, got int64",
        ),
        ({"first_columns": meta(3, dtype=INT)}, "first_columns must have shape [2], got [3]"),
        (
            {"visible": meta(2, 2, 5, 9, dtype=torch.bool)},
            "visible must have shape [2, 1, 5, 9], got [2, 2, 5, 9]",
        ),
        ({"visible": MASK[:, :4]}, "visible must have shape [2, 5, 9], got [2, 4, 9]"),
        ({"visible": meta(2, 5, 9)}, "visible must have dtype bool, got float32"),
        (
            {"visible": MASK, "window": 3},
            "visible replaces window: give one of them, got both",
        ),
        (
            {"visible": MASK, "first_columns": meta(2, dtype=INT)},
            "visible replaces first_columns: give one of them, got both",
        ),
        (
            {"visible": MASK, "bidirectional_spans": meta(2, 1, 2, dtype=INT)},
            "visible replaces bidirectional_spans: give one of them, got both",
        ),
        ({"heads": meta(4, dtype=torch.bool)}, "heads must have shape [8], got [4]"),
        ({"heads": meta(8)}, "heads must have dtype bool, got float32"),
        ({"window": 0}, "window must be positive, got 0"),
        (
            {"softcap": 0.0},
            "softcap must be a number that is finite and above 0 in float32, got 0.0",
        ),
        ({"softcap": 1e-50}, "softcap must be a number that is finite and above 0"),
        ({"scaling": -0.5}, "scaling must be a number that is finite and above 0"),
        ({"scaling": 1e39}, "finite and above 0 in float32, got 1e+39"),
        ({"key": meta(2, 4, 9, 64).requires_grad_()}, "got key that requires one"),
        ({"row_alpha": meta(2, 5).requires_grad_()}, "got row_alpha that requires one"),
        ({"row_alpha": torch.ones(2, 5)}, "row_alpha must be on the device of query, meta"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=re.escape(message)):
        steered_prefill(**dense(**changes))
    assert not launches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": meta(2, 50, 8, 64)}, "query must have shape [T, H, D], got [2, 50, 8, 64]"),
        ({"key": meta(90, 4, 32)}, "key must have shape [S, G, 64], got [90, 4, 32]"),
        ({"value": meta(89, 4, 64)}, "value must have shape [90, 4, 64], got [89, 4, 64]"),
        ({"key_starts": meta(3, dtype=INT)}, "key_starts must have shape [4], got [3]"),
        (
            {"query_starts": meta(4, dtype=torch.int64)},
            "query_starts must have dtype int32, got int64",
        ),
        ({"query_starts": meta(0, dtype=INT)}, "query_starts must have B + 1 elements, got none"),
        ({"max_rows": -1}, "max_rows must not be negative, got -1"),
        ({"row_alpha": meta(49)}, "row_alpha must have shape [50], got [49]"),
        (
            {"image_columns": meta(50, dtype=torch.bool)},
            "image_columns must have shape [90], got [50]",
        ),
        (
            {"image_spans": meta(4, 1, 2, dtype=INT)},
            "image_spans must have shape [3, spans, 2], got [4, 1, 2]",
        ),
        (
            {"image_spans": meta(3, 9, 2, dtype=INT)},
            "image_spans must have at most 8 spans per request, got 9; give image_columns instead",
        ),
        (
            {
                "image_columns": meta(90, dtype=torch.bool),
                "image_spans": meta(3, 1, 2, dtype=INT),
            },
            "image_columns and image_spans say the same thing: give one of them, got both",
        ),
    ],
)
def test_unequal_requests_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=re.escape(message)):
        steered_prefill_varlen(**varlen(**changes))
    assert not launches


def test_a_cpu_is_refused_outside_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptvis_kernels.checks.is_interpreted", lambda: False)
    arguments = {name: torch.ones(tensor.shape) for name, tensor in dense().items()}
    with pytest.raises(ValueError, match="query must be on a CUDA or ROCm device, got cpu"):
        steered_prefill(**arguments)


def test_what_fits_is_launched_once() -> None:
    assert len(launched(steered_prefill, dense())) == 1
    assert len(launched(steered_prefill_varlen, varlen())) == 1


def test_few_rows_take_smaller_tiles() -> None:
    def tile(rows: int) -> int:
        half = {
            name: meta(1, 8, rows, 128, dtype=torch.bfloat16) for name in ("query", "key", "value")
        }
        [launch] = launched(steered_prefill, dense(**half, row_alpha=meta(1, rows)))
        return int(launch.arguments["BLOCK_M"])

    assert tile(64) < tile(65)


def test_nothing_is_launched_for_nothing() -> None:
    assert not launched(steered_prefill, dense(query=meta(2, 8, 0, 64), row_alpha=meta(2, 0)))
    assert not launched(steered_prefill_varlen, varlen(max_rows=0))


def test_inputs_with_gradients_are_fine_where_none_is_asked_for() -> None:
    with torch.no_grad():
        assert launched(steered_prefill, dense(query=meta(2, 8, 5, 64).requires_grad_()))
    with pytest.raises(ValueError, match="steered_prefill has no backward pass and expects"):
        launched(steered_prefill_varlen, varlen(value=meta(90, 4, 64).requires_grad_()))


@pytest.mark.parametrize(("rows", "window"), [(9, None), (4, None), (9, 3), (4, 7)])
def test_cost_counts_the_visible_pairs(rows: int, window: int | None) -> None:
    moved, operations = cost(2, 8, 4, rows, 9, 64, 2, window=window)
    pairs = int(visible_columns(1, rows, 9, window=window).sum())
    assert operations == 4 * 64 * 2 * 8 * pairs
    assert moved == 2 * 2 * 2 * 64 * (8 * rows + 4 * 9) + 4 * 2 * rows
