"""Every kernel compiles ahead of time at its shipped configurations, fits, and spills nothing."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from adaptvis_kernels.compile import (
    OPS,
    TARGETS,
    Resources,
    compile_case,
    compile_launch,
    table,
    tasks,
)
from adaptvis_kernels.launching import record_launches
from adaptvis_kernels.support import try_launch

_TASKS = tasks(OPS, list(TARGETS))


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest):
    """Compilations of the selected tests running in two processes, by (op, case, target)."""
    selected = [item.callspec.params["task"] for item in request.session.items if _is_case(item)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield {task: pool.submit(compile_case, *task) for task in selected}
        pool.shutdown(cancel_futures=True)


def _is_case(item: pytest.Item) -> bool:
    return item.name.startswith("test_compiles_fits_and_spills_nothing")


@pytest.mark.parametrize("task", _TASKS, ids=["-".join(task) for task in _TASKS])
def test_compiles_fits_and_spills_nothing(
    task: tuple[str, str, str], compiled: dict[tuple[str, str, str], Future[list[Resources]]]
) -> None:
    results = compiled[task].result()
    assert results
    for resources in results:
        assert resources.registers > 0
        assert resources.problem == "", f"{resources.kernel}: {resources.problem}"


def test_spills_are_seen() -> None:
    """The same kernel on one warp cannot hold its tiles in registers, and the report says so."""
    import adaptvis_kernels.ops.steered_paged_decode.cases as cases

    case = dict(cases.compile_cases())["head 128, GQA 7, tail, paged"]
    with record_launches("sm_80") as launches:
        case()
    starved = launches[0].__class__(**{**vars(launches[0]), "num_warps": 1})
    _, spills, _ = compile_launch(starved, "sm_80")
    assert spills > 0


@pytest.mark.parametrize("target", list(TARGETS))
def test_every_kernel_is_compiled_for_every_target_and_so_is_the_trial(target: str) -> None:
    assert {op for op, _, name in _TASKS if name == target} == set(OPS)
    with record_launches(target) as launches:
        try_launch(torch.device("meta"))
    registers, spills, _ = compile_launch(launches[0], target)
    assert registers > 0
    assert spills == 0


def test_table_has_a_row_per_kernel_and_a_column_per_target() -> None:
    results = [
        Resources("op", case, "kernel", target, 10, 1024, 0)
        for case, target in (("a", "sm_80"), ("a", "gfx942"), ("b", "sm_80"))
    ]
    assert table(results).splitlines() == [
        "| op | case | kernel | sm_80 | gfx942 |",
        "|---|---|---|---|---|",
        "| op | a | kernel | 10 / 1.0 / 0 | 10 / 1.0 / 0 |",
        "| op | b | kernel | 10 / 1.0 / 0 |  |",
    ]
    assert Resources("op", "case", "kernel", "gfx942", 10, 65537, 0).problem
    assert Resources("op", "case", "kernel", "sm_90", 10, 65537, 0).problem == ""
