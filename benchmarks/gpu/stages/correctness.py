"""Stage 1: every shipped case of every kernel against float64."""

from __future__ import annotations

from collections.abc import Iterator

from gpu.setting import Setting
from gpu.stage import Judgement
from gpu.store import Result

TITLE = "The kernels are right on this device"
MEASURES = (
    "Every call of `adaptvis_kernels.ops.*.cases`, filled with random values, against the "
    "definition in float64; outputs are poisoned with NaN beforehand. What a case has in 16 bits "
    "runs in bfloat16 and in float16."
)
NEEDS = ("torch", "triton")
USES_KERNELS, OPTIONAL, TUNED = True, False, True


def names(smoke: bool) -> list[str]:
    from adaptvis_kernels.device_check import checks

    return [check.name for check in checks(small=smoke)]


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    from adaptvis_kernels.device_check import checks, choose_device, jobs_of, run_checks

    device = choose_device(smoke=setting.smoke)
    chosen = [check for check in checks(small=setting.smoke) if check.name in wanted]
    for checked in run_checks(chosen, device, jobs=jobs_of(device)):
        result = checked.to_dict()
        if checked.status != "right":
            result["problem"] = f"{checked.status}: {checked.detail}"
        yield checked.check.name, result


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    from adaptvis_kernels.device_check import Checked, checked_table

    return checked_table([Checked.from_dict(result) for result in results.values()])


def judge(results: dict[str, Result]) -> list[Judgement]:
    right = sum(result["status"] == "right" for result in results.values())
    met = "met" if right == len(names(False)) else "not met"
    text = f"{right} of {len(names(False))}"
    return [Judgement("kernels right against float64, cases", "all", text, met)]
