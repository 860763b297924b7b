"""Compile every kernel ahead of time, without a GPU, and report what the compiler used.

    python -m adaptvis_kernels.compile                       a table; exit status 1 on spills
    python -m adaptvis_kernels.compile --output table.md     the same, written as Markdown
    python -m adaptvis_kernels.compile --op steered_prefill --target sm_90

What is compiled are the launches of each kernel's ``cases.py``, recorded from its own launcher, so
the configurations are those that a device would get.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .cases import OPS, cases_of
from .launching import Launch, record_launches

__all__ = ["OPS", "TARGETS", "Resources", "Target", "compile_case", "compile_launch", "tasks"]

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Target:
    """One architecture; shared_limit: bytes of shared memory that one program may use.

    served_like_another: it takes another target's configurations, and few cases are enough.
    """

    gpu: GPUTarget
    shared_limit: int
    served_like_another: bool = False


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_89": Target(GPUTarget("cuda", 89, 32), 99 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 * 1024),
    "sm_120": Target(GPUTarget("cuda", 120, 32), 99 * 1024, served_like_another=True),
    "gfx90a": Target(GPUTarget("hip", "gfx90a", 64), 64 * 1024, served_like_another=True),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
# The few: those that take the most registers and shared memory, one or more of each kernel.
_REPRESENTATIVE = {
    ("steered_paged_decode", "head 128, 1 row, paged, split"),
    ("steered_paged_decode", "head 128, GQA 7, tail, paged"),
    ("steered_paged_decode", "head 128, tail, all options"),
    ("steered_prefill", "head 128, 1 span, padding"),
    ("steered_prefill", "head 256, bidirectional, window"),
    ("steered_prefill", "head 128, all options"),
    ("select_alpha", "16 rows, 152k, split, float16"),
    ("rescale_norms", "8192, float32"),
    ("image_attention", "256 rows, head size 128, mask, alpha, heads"),
}


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses: registers per thread, bytes of shared memory, spills.

    spills: bytes of spill stores and loads per thread on NVIDIA, spilled vector registers on AMD.
    """

    op: str
    case: str
    kernel: str
    target: str
    registers: int
    shared: int
    spills: int

    @property
    def problem(self) -> str:
        """What is wrong, or an empty string."""
        limit = TARGETS[self.target].shared_limit
        if self.spills:
            return f"spills {self.spills}"
        return f"{self.shared} bytes of shared memory, limit {limit}" if self.shared > limit else ""


def compile_launch(launch: Launch, target: str) -> tuple[int, int, int]:
    """Compile one recorded launch; returns registers, spills and bytes of shared memory."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[Any]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        value = launch.arguments.get(name, parameter.default)
        # As Triton specialises at a launch: None and 1 are constants, multiples of 16 are known.
        specialises = type(value) is int and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialises and value == 1):
            signature[name] = "constexpr"
            constants[(index,)] = value
            continue
        signature[name] = _type_name(name, value)
        if isinstance(value, torch.Tensor) or (specialises and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(launch.kernel, signature, constants, attributes),
        target=TARGETS[target].gpu,
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    shared = int(compiled.metadata.shared)
    if "cubin" in compiled.asm:
        registers, stack = _nvidia_usage(compiled.asm["cubin"])
        arch = TARGETS[target].gpu.arch
        spills = _nvidia_spills(compiled.asm["ptx"], arch, stack) if stack else 0
        return registers, spills, shared
    registers, spills = (
        int(re.findall(rf"\.{field}:\s+(\d+)", compiled.asm["amdgcn"])[0])
        for field in ("vgpr_count", "vgpr_spill_count")
    )
    return registers, spills, shared


def _type_name(name: str, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    raise TypeError(f"cannot compile argument {name} of type {type(value).__name__}")


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of stack, from the resource report of the binary."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        report = subprocess.run(
            [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump gave no resource report: {report!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def _nvidia_spills(ptx: str, arch: int, stack: int) -> int:
    """Bytes per thread of spill stores and loads; a stack may also serve other ends than spills.

    Where the assembler gives no report, the whole stack counts as spilled.
    """
    name = "ptxas-blackwell" if arch >= 100 else "ptxas"
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    gpu = re.findall(r"\.target (\w+)", ptx)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        report = subprocess.run(
            [tool, "-v", f"--gpu-name={gpu}", path, "-o", Path(folder) / "kernel.cubin"],
            capture_output=True,
            text=True,
            check=False,
        )
    if report.returncode != 0:
        return stack
    return sum(
        int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", report.stderr)
    )


def compile_case(op: str, case: str, target: str) -> list[Resources]:
    """Record the launches of one case as for ``target`` and compile each distinct one."""
    run = dict(cases_of(op))[case]
    with record_launches(target) as launches:
        run()
    if not launches:
        raise RuntimeError(f"case {case!r} of {op} launched nothing")
    results = []
    for launch in launches:
        registers, spills, shared = compile_launch(launch, target)
        name = launch.kernel.__name__
        results.append(Resources(op, case, name, target, registers, shared, spills))
    return results


def tasks(ops: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str, str]]:
    """Op, case and target of everything that is compiled."""
    return [
        (op, case, target)
        for op in ops
        for case, _ in cases_of(op)
        for target in targets
        if not TARGETS[target].served_like_another or (op, case) in _REPRESENTATIVE
    ]


def _compile_one(task: tuple[str, str, str]) -> list[Resources]:
    return compile_case(*task)


def compile_all(ops: Sequence[str], targets: Sequence[str], jobs: int) -> list[Resources]:
    """Compile all cases of ``ops`` for ``targets`` in ``jobs`` processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [
            resources for part in pool.map(_compile_one, tasks(ops, targets)) for resources in part
        ]


def table(results: Sequence[Resources]) -> str:
    """A Markdown table: one row per case and kernel, one column per target; some are empty."""
    targets = [name for name in TARGETS if any(result.target == name for result in results)]
    cells = {(r.op, r.case, r.kernel, r.target): r for r in results}
    lines = [
        "| op | case | kernel | " + " | ".join(targets) + " |",
        "|---" * (3 + len(targets)) + "|",
    ]
    for key in dict.fromkeys((r.op, r.case, r.kernel) for r in results):
        row = [cells.get((*key, target)) for target in targets]
        texts = [f"{r.registers} / {r.shared / 1024:.1f} / {r.spills}" if r else "" for r in row]
        lines.append(f"| {' | '.join(key)} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser("adaptvis_kernels.compile", description=__doc__.split("\n")[0])
    parser.add_argument("--op", action="append", choices=OPS, help="only this kernel (repeatable)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--output", type=Path, help="write the table to this Markdown file")
    options = parser.parse_args(arguments)
    results = compile_all(options.op or OPS, options.target or list(TARGETS), options.jobs)
    text = table(results)
    print(text)
    if options.output is not None:
        heading = (
            "# Compiled kernels: registers per thread / shared memory in KiB / spills\n\n"
            f"Triton {triton.__version__}, compiled without a GPU by\n"
            f"`python -m adaptvis_kernels.compile --output {options.output.as_posix()}`.\n"
            "Spills: bytes stored and loaded per thread (NVIDIA), vector registers (AMD).\n"
            "sm_120 and gfx90a take configurations of sm_89 and gfx942; there few are compiled.\n\n"
        )
        options.output.write_text(heading + text)
    problems = [result for result in results if result.problem]
    for result in problems:
        where = f"{result.op}, {result.case}, {result.kernel} on {result.target}"
        print(f"{where}: {result.problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
