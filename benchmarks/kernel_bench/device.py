"""Which device a run uses, or one sentence on why there is none."""

from __future__ import annotations

import os
from typing import NoReturn

import torch
import typer


def refuse(message: str) -> NoReturn:
    """One sentence, and exit status 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2)


def choose_device(*, smoke: bool) -> torch.device:
    """A GPU; for a smoke run in Triton's interpreter the CPU."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted and smoke:
        return torch.device("cpu")
    if interpreted:
        refuse("Timing needs compiled kernels: unset TRITON_INTERPRET, or add --smoke.")
    if not torch.cuda.is_available():
        refuse("No GPU found: times need one; without it only TRITON_INTERPRET=1 ... --smoke runs.")
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return "Triton's interpreter on a CPU"
    return torch.cuda.get_device_name(device)
