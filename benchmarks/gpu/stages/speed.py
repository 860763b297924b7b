"""Stage 2: the kernels against PyTorch and the device's own ceilings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from gpu.setting import Setting
from gpu.stage import Judgement, in_turn
from gpu.store import Result

TITLE = "How fast the kernels are"
MEASURES = (
    "`benchmarks/kernel_speed.py --quick`, the shapes in order of worth: steered attention against "
    "SDPA (flash, cuDNN), FlexAttention with a score_mod and the eager expression, norms and "
    "confidence against PyTorch; everything beside the bandwidth of a copy and the rate of a "
    "matrix product measured here."
)
NEEDS = ("torch", "triton")
USES_KERNELS, OPTIONAL, TUNED = True, False, True

_CEILINGS = "ceilings"
# Those with targets first.
_ORDER = (
    "steered_paged_decode",
    "steered_prefill",
    "rescale_norms",
    "normalize_projection",
    "select_alpha",
    "image_attention",
)
_MEMORY = 6 * 2**30
# In the interpreter attention takes long, and the benchmark's own tests run it.
_SMOKE = ("select_alpha", "rescale_norms")


def names(smoke: bool) -> list[str]:
    import torch

    return [_CEILINGS, *_builders(smoke, torch.device("cpu"))]


def _builders(smoke: bool, device: Any) -> dict[str, Any]:
    from kernel_bench.shapes import MODELS, TINY
    from kernel_bench.speed import builders

    models = [TINY] if smoke else list(MODELS.values())
    return {
        f"{kernel}, {model.name}, {what}": build
        for model in models
        for kernel in (_SMOKE if smoke else _ORDER)
        for what, build in builders(kernel, model, "smoke" if smoke else "quick", device, _MEMORY)
    }


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    import torch
    from adaptvis_kernels.device_check import choose_device
    from adaptvis_kernels.device_check.timing import measure_ceilings
    from kernel_bench.report import problems_of_ours
    from kernel_bench.speed import measure_one

    device = choose_device(smoke=setting.smoke)
    # Graphs cannot be captured on the default stream, nor a backward pass of what ran there.
    stream = torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext()
    with stream:
        ceilings = measure_ceilings(device, smoke=setting.smoke)

        def run(build: Any) -> Result:
            records, why = measure_one(build, device, ceilings)
            result: Result = {"records": [record.as_json() for record in records], "skipped": why}
            wrong = problems_of_ours(records)
            return result | ({"problem": wrong[0]} if wrong else {})

        parts: dict[str, Any] = {_CEILINGS: lambda: asdict(ceilings)}
        parts |= {
            name: partial(run, build) for name, build in _builders(setting.smoke, device).items()
        }
        yield from in_turn(parts, wanted)


def _records(results: dict[str, Result]) -> list[Any]:
    from kernel_bench.problem import Record

    return [
        Record.from_json(values)
        for result in results.values()
        for values in result.get("records", ())
    ]


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    from kernel_bench.report import EXPLANATION, kernel_table

    lines = []
    ceilings = results.get(_CEILINGS)
    if ceilings and not smoke:
        lines += [
            f"A copy of 1 GiB moves {ceilings['copy'] / 1e9:.0f} GB/s (read and written); a "
            f"product of 8192 x 8192 matrices in bfloat16 does {ceilings['matmul'] / 1e12:.0f} "
            "TFLOP/s.",
            "",
        ]
    lines += [EXPLANATION, ""]
    records = _records(results)
    for kernel in dict.fromkeys(record.kernel for record in records):
        lines += kernel_table(kernel, records, smoke=smoke)
    skipped = [f"- {name}: {r['skipped']}" for name, r in results.items() if r.get("skipped")]
    return lines + (["## Skipped", "", *skipped, ""] if skipped else [])


def judge(results: dict[str, Result]) -> list[Judgement]:
    from kernel_bench.targets import TARGETS

    records = _records(results)
    found = []
    for target in TARGETS:
        verdict, numbers = target.judge(records)
        bound = f"{'<=' if target.at_most else '>='} {target.bound}"
        found.append(Judgement(target.text, bound, numbers, verdict))
    return found
