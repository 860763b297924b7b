"""What goes into an issue: the machine, every check and a few times, as one block of Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

import torch

from .correctness import Checked, checks, run_checks
from .machine import INTERPRETER, Machine, choose_device, describe_machine
from .speed import Speed, speeds
from .timing import Ceilings, measure_ceilings

__all__ = ["checked_table", "device_report", "jobs_of", "machine_table"]


def device_report(
    *, smoke: bool = False, versions: dict[str, str] | None = None, say: Callable[[str], None]
) -> tuple[str, str]:
    """The block, and a sentence where a kernel is wrong or was not checked, else "".

    Args:
        smoke: in Triton's interpreter, on small shapes; no times.
        versions: of other packages, by name, for the table.
        say: is told of each check as it ends.

    Raises:
        NoDevice: there is no GPU that the kernels know.
    """
    device = choose_device(smoke=smoke)
    machine = describe_machine(device)
    done = []
    wanted = checks(small=smoke)
    for checked in run_checks(wanted, device, jobs=jobs_of(device)):
        done.append(checked)
        say(f"{len(done)} of {len(wanted)}: {checked.check.name}: {checked.status}")
    lines = ["### adaptvis on this GPU", "", *machine_table(machine, versions or {}), ""]
    lines += checked_table(done)
    # Broken kernels may have left the device's context unusable.
    if not any(checked.status == "failed" for checked in done):
        try:
            # Graphs cannot be captured on the default stream; without a stream nothing happens.
            with torch.cuda.stream(torch.cuda.Stream() if device.type == "cuda" else None):
                ceilings = measure_ceilings(device, smoke=smoke)
                lines += _speed_table(ceilings, speeds(device, ceilings, small=smoke), smoke)
        except torch.OutOfMemoryError:
            lines.append("No times: out of memory.")
    return "\n".join(lines) + "\n", _problem(done)


def _problem(done: Sequence[Checked]) -> str:
    """What keeps the kernels from being called right here; "" where nothing does."""
    if any(checked.status not in ("right", "skipped") for checked in done):
        return "A kernel is not right on this GPU; ADAPTVIS_BACKEND=torch steers without them"
    kinds = {status: set[tuple[str, str]]() for status in ("right", "skipped")}
    for checked in done:
        kinds[checked.status].add((checked.check.op, checked.check.dtype))
    unchecked = sorted(kinds["skipped"] - kinds["right"])
    if not unchecked:
        return ""
    names = ", ".join(f"{op} in {dtype}" for op, dtype in unchecked)
    return f"Memory was too short to check {names}; free memory on this GPU and run it again"


def jobs_of(device: torch.device) -> int:
    """Processes for work that is mostly the compiler's; each has its own memory on the device."""
    if device.type != "cuda":
        return 1
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return max(1, min(8, (os.cpu_count() or 1) // 2, int(memory / 8)))


def machine_table(machine: Machine, versions: dict[str, str]) -> list[str]:
    """One row per fact; empty ones are left out."""
    facts = {**{name: str(value) for name, value in asdict(machine).items()}, **versions}
    if machine.device == INTERPRETER:
        facts.pop("memory")
    else:
        facts["memory"] += " GiB"
    return ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items() if v)]


def checked_table(done: Sequence[Checked]) -> list[str]:
    """One row per kernel and data type, and a line for each check that is not right."""
    lines = [
        "| kernel | data type | cases | right | worst error / limit |",
        "|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Checked]] = {}
    for checked in sorted(done, key=lambda c: (c.check.op, c.check.dtype)):
        groups.setdefault((checked.check.op, checked.check.dtype), []).append(checked)
    for (op, dtype), group in groups.items():
        right = sum(checked.status == "right" for checked in group)
        errors = [checked.error for checked in group if checked.error == checked.error]
        worst = f"{max(errors):.2f}" if errors else ""
        lines.append(f"| {op} | {dtype} | {len(group)} | {right} | {worst} |")
    lines.append("")
    for checked in done:
        if checked.status != "right":
            lines.append(f"- **{checked.status}**: {checked.check.name}: {checked.detail}")
    return [*lines, ""] if lines[-1] else lines


def _speed_table(ceilings: Ceilings, found: Iterable[Speed], smoke: bool) -> list[str]:
    lines = ["| call | us | of the ceiling | time over |", "|---|---|---|---|"]
    for speed in found:
        if smoke:
            lines.append(f"| {speed.what} | ran, meaningless | | {speed.against} |")
            continue
        lines.append(
            f"| {speed.what} | {speed.microseconds:.1f} | {100 * speed.share:.0f} % "
            f"| {speed.ratio:.3f} of {speed.against} |"
        )
    if smoke:
        return lines
    return [
        f"Ceilings: a copy of 1 GiB moves {ceilings.copy / 1e9:.0f} GB/s (read and written), a "
        f"product of 8192 x 8192 matrices in bfloat16 does {ceilings.matmul / 1e12:.0f} TFLOP/s.",
        "",
        *lines,
    ]
