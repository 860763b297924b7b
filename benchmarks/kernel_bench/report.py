"""The results as JSON and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptvis_kernels.device_check.timing import Ceilings

from kernel_bench.problem import Record
from kernel_bench.targets import TARGETS

SMOKE_WARNING = (
    "**Smoke run: tiny shapes. The times below are meaningless; no ratio, bandwidth or target is "
    "claimed.**"
)
EXPLANATION = (
    "Medians of two rounds; spread: the difference of their medians. Random inputs rotate; "
    "everything is bfloat16 (float16 in a smoke run). time / ours: of the variant over that of the "
    "first variant of its kernel. ceiling: least possible time by the bytes (M) or operations (A) "
    "that the work takes, over the time. error: norm(output - reference) / norm(reference), the "
    "reference in float64, checked before timing; a wrong variant is not timed."
)
HEADER = (
    "model",
    "shape",
    "variant",
    "us",
    "spread",
    "time / ours",
    "GB/s",
    "TFLOP/s",
    "ceiling",
    "error",
)


@dataclass(frozen=True)
class Run:
    """Where and how the results were made. finished: False while more is to come."""

    command: str
    device: str
    torch: str
    triton: str
    smoke: bool
    ceilings: Ceilings | None = None
    finished: bool = False


def write_results(
    folder: Path, run: Run, records: Sequence[Record], skipped: Sequence[str]
) -> tuple[Path, Path]:
    """Write both files; those of a smoke run have names of their own. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "kernels_smoke" if run.smoke else "kernels"
    data = {
        "run": asdict(run),
        "targets": [] if run.smoke else _judgements(records),
        "skipped": list(skipped),
        "records": [_claimed(record, run.smoke) for record in records],
    }
    json_path, markdown_path = folder / f"{stem}.json", folder / f"{stem}.md"
    json_path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    markdown_path.write_text(markdown(run, records, skipped))
    return json_path, markdown_path


def _claimed(record: Record, smoke: bool) -> dict[str, Any]:
    """What may be claimed: of a smoke run no number that is made of times."""
    values = record.as_json()
    if smoke:
        for name in ("bytes_per_second", "operations_per_second", "bound", "share_of_ceiling"):
            values[name] = None
        values["spread"], values["time_over"] = None, {}
    return values


def _judgements(records: Sequence[Record]) -> list[dict[str, Any]]:
    rows = []
    for target in TARGETS:
        verdict, numbers = target.judge(records)
        bound = f"{'<=' if target.at_most else '>='} {target.bound}"
        rows.append({"what": target.text, "bound": bound, "verdict": verdict, "numbers": numbers})
    return rows


def markdown(run: Run, records: Sequence[Record], skipped: Sequence[str]) -> str:
    """The whole report."""
    lines = ["# Triton kernels", ""]
    if run.smoke:
        lines += [SMOKE_WARNING, ""]
    lines += [f"`{run.command}`: {run.device}, torch {run.torch}, triton {run.triton}.", ""]
    if not run.finished:
        lines += ["**Unfinished: the run stopped before its end.**", ""]
    if run.ceilings is not None and not run.smoke:
        lines += [
            f"Ceilings of this device: a copy of 1 GiB moves {run.ceilings.copy / 1e9:.0f} GB/s "
            "(read and written); a product of 8192 x 8192 matrices in bfloat16 does "
            f"{run.ceilings.matmul / 1e12:.0f} TFLOP/s.",
            "",
        ]
    lines += [EXPLANATION, ""]
    if not run.smoke:
        lines += ["## Targets", "", "| what | target | | |", "|---|---|---|---|"]
        lines += [
            f"| {row['what']} | {row['bound']} | {row['verdict']} | {row['numbers']} |"
            for row in _judgements(records)
        ]
        lines.append("")
    for kernel in dict.fromkeys(record.kernel for record in records):
        lines += kernel_table(kernel, records, smoke=run.smoke)
    if skipped:
        lines += ["## Skipped", "", *(f"- {text}" for text in skipped), ""]
    return "\n".join(lines)


def kernel_table(kernel: str, records: Sequence[Record], *, smoke: bool) -> list[str]:
    """One row per model, shape and variant."""
    chosen = [record for record in records if record.kernel == kernel]
    memory = any(record.peak_bytes is not None for record in chosen)
    header = (*HEADER, "extra memory, MiB") if memory else HEADER
    lines = [
        f"## {kernel}",
        "",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
    ]
    base: float | None = None
    place = None
    for record in chosen:
        if (record.model, record.shape) != place:
            place, base = (record.model, record.shape), record.microseconds
        cells = _cells(record, base, smoke)
        if memory:
            cells.append("" if record.peak_bytes is None else f"{record.peak_bytes / 2**20:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _cells(record: Record, base: float | None, smoke: bool) -> list[str]:
    name = f"**{record.variant}**" if record.ours else record.variant
    start = [record.model, record.shape, name]
    error = "" if record.error is None else f"{record.error:.1e}"
    if record.microseconds is None:
        status = record.status
        if record.status == "wrong":
            status, error = "**WRONG**", f"{error} > {record.limit:.0e}"
        detail = record.detail.replace("|", "/")
        return [*start, f"{status}: {detail}" if detail else status, *[""] * 5, error]
    if smoke:
        return [*start, f"({record.microseconds:.0f})", *[""] * 5, error]
    # Not captured in a graph, a short call includes the host's time.
    ungraphed = " (with host)" if record.method == "events" and record.microseconds < 2000 else ""
    return [
        *start,
        f"{record.microseconds:.1f}{ungraphed}",
        f"{100 * (record.spread or 0):.1f} %",
        "" if base is None else f"{record.microseconds / base:.3f}",
        f"{(record.bytes_per_second or 0) / 1e9:.0f}",
        f"{(record.operations_per_second or 0) / 1e12:.2f}",
        f"{100 * (record.share_of_ceiling or 0):.0f} % {(record.bound or ' ')[0].upper()}",
        error,
    ]


def problems_of_ours(records: Sequence[Record]) -> list[str]:
    """One sentence for every variant of ours that is wrong or failed."""
    return [
        f"{r.kernel}, {r.model}, {r.shape}, {r.variant}: "
        + (f"wrong, error {r.error:.1e}" if r.status == "wrong" else f"{r.status}: {r.detail}")
        for r in records
        if r.ours and r.status != "ok"
    ]
