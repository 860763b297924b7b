"""The device at hand, in words; and one sentence where there is none that the kernels know."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

import torch
import triton

from ..configs import is_supported
from ..launching import architecture_of, is_interpreted
from ..ops.select_alpha import select_alpha
from ..support import try_launch

__all__ = ["INTERPRETER", "Machine", "NoDevice", "choose_device", "describe_machine"]

INTERPRETER = "Triton's interpreter on a CPU"


class NoDevice(Exception):
    """There is no device that can be used; the text says what is wrong and the way out."""


@dataclass(frozen=True)
class Machine:
    """memory: GiB. state: clocks, power and temperature as they were when asked."""

    device: str
    architecture: str
    memory: float
    driver: str
    state: str
    runtime: str
    torch: str
    triton: str
    python: str
    system: str


def choose_device(*, smoke: bool) -> torch.device:
    """A GPU that the kernels know; for a smoke run in Triton's interpreter the CPU.

    Raises:
        NoDevice: there is none, or nothing can be launched on it.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and is_interpreted()
    if interpreted and not smoke:
        raise NoDevice("Timing needs compiled kernels: unset TRITON_INTERPRET, or add --smoke.")
    if not interpreted and not torch.cuda.is_available():
        raise NoDevice(
            "No GPU found: torch sees none; without one the kernels run in Triton's interpreter "
            "only, untimed, with TRITON_INTERPRET=1 (and --smoke, of the benchmarks)."
        )
    device = torch.device("cpu")
    if not interpreted:
        device = torch.device("cuda", torch.cuda.current_device())
        architecture = architecture_of(device)
        if not is_supported(architecture):
            raise NoDevice(
                f"The kernels do not know {torch.cuda.get_device_name(device)} ({architecture}): "
                "they are made for NVIDIA from compute capability 8.0 and for AMD gfx90a and "
                "gfx942; adaptvis steers there in PyTorch by itself, without them."
            )
    try:
        try_launch(device)
        if interpreted:
            # With a loop, which a numpy too new for the interpreter fails at.
            select_alpha(torch.zeros(1, 4), threshold=0.5, alpha_low=1.0, alpha_high=1.0)
    # The compiler, the driver and the C toolchain raise whatever they like.
    except Exception as problem:
        raise NoDevice(_cannot_launch(device, problem)) from problem
    return device


def _cannot_launch(device: torch.device, problem: Exception) -> str:
    text = next(iter(str(problem).strip().splitlines()), "no message")
    if device.type == "cpu" and "0-dimensional" in text:
        return (
            f"Triton {triton.__version__}'s interpreter does not run with this version of numpy "
            '(its compiler does): pip install "numpy<2.4", or a later triton.'
        )
    return (
        f"Triton {triton.__version__} cannot launch on {device_name(device)} "
        f"({type(problem).__name__}: {text}); it needs a driver for this device and a C compiler, "
        "and without it adaptvis steers in PyTorch."
    )


def device_name(device: torch.device) -> str:
    return INTERPRETER if device.type != "cuda" else torch.cuda.get_device_name(device)


def describe_machine(device: torch.device) -> Machine:
    """Everything that a reader of results needs to know about where they come from."""
    memory, driver, state = 0.0, "", ""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        driver, state = _asked_of_the_driver(device)
    return Machine(
        device=device_name(device),
        architecture=architecture_of(device),
        memory=round(memory, 1),
        driver=driver,
        state=state,
        runtime=_runtime(),
        torch=torch.__version__,
        triton=triton.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    )


def _runtime() -> str:
    names = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    return ", ".join(f"{name} {version}" for name, version in names.items() if version)


_ASKED = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


def _identifier(device: torch.device) -> str:
    """The driver counts all devices; torch, those that CUDA_VISIBLE_DEVICES names, in its order."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return str(device.index or 0) if uuid is None else f"GPU-{uuid}"


def _asked_of_the_driver(device: torch.device) -> tuple[str, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown", "unknown"
    query = [tool, f"--query-gpu={_ASKED}", "--format=csv,noheader", f"--id={_identifier(device)}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown", "unknown"
    fields = [field.strip() for field in done.stdout.strip().split(",")]
    if len(fields) != len(_ASKED.split(",")):
        return "unknown", "unknown"
    driver, clock, most, memory, power, limit, heat = fields
    return driver, f"SM {clock} of {most}, memory {memory}, {power} of {limit}, {heat} C"
