"""The page of byte and operation counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from adaptvis_kernels.ops.steered_prefill.cost import cost as prefill_cost

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def kernel_costs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernel_costs

    yield kernel_costs
    sys.modules.pop("kernel_costs", None)


def test_page_holds_the_current_table(kernel_costs) -> None:
    page = kernel_costs.PAGE.read_text()
    assert kernel_costs.with_table(page) == page
    assert page.count("| `steered_paged_decode` |") == 9


def test_decode_counts_are_those_of_the_tensors(kernel_costs) -> None:
    model = kernel_costs.MODELS["qwen2.5-vl-7b"]
    cache = torch.empty(2, 1, 640, model.groups, model.head_size, dtype=torch.bfloat16)
    query = torch.empty(1, model.heads, model.head_size, dtype=torch.bfloat16)
    image = torch.empty(model.groups, 640, dtype=torch.bool)
    moved, operations = {
        (kernel, call): cost for kernel, call, cost, _ in kernel_costs.rows(model)
    }["steered_paged_decode", "1 row, context 640"]
    assert moved == cache.nbytes + 2 * query.nbytes + image.nbytes
    # Two products of head size 128, of two operations per multiply-add, for each of 640 columns.
    assert operations == 28 * 640 * 2 * (2 * 128)


@pytest.mark.parametrize("window", [None, 5, 16])
@pytest.mark.parametrize("rows", [1, 7, 12])
def test_prefill_operations_count_the_visible_pairs(rows: int, window: int | None) -> None:
    columns = 12
    pairs = sum(
        1
        for row in range(columns - rows, columns)
        for column in range(columns)
        if column <= row and (window is None or column > row - window)
    )
    _, operations = prefill_cost(3, 4, 2, rows, columns, 8, window=window)
    assert operations == 3 * 4 * pairs * 4 * 8
