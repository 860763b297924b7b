"""`adaptvis doctor`: what is installed, what would run, and whether a model would be steered."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from adaptvis import __version__
from adaptvis.cli.console import error, out
from adaptvis.cli.doctor_gpu import doctor_gpu
from adaptvis.errors import AdaptVisError

__all__ = ["doctor"]

_REQUIRED = ("torch", "transformers", "numpy", "pillow", "pydantic")
_OPTIONAL = ("triton", "vllm", "matplotlib", "pyarrow")

_GOOD, _ABSENT, _BAD = Text("ok", "green"), Text("-", "dim"), Text("problem", "red")
Row = tuple[str, str, Text]


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Say whether this model would be steered: folder, hub id or embedded model.",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check and time the kernels on the GPU, for an issue.")
    ] = False,
) -> None:
    """Show what is installed and what would run. Exit code 2 where something is amiss."""
    if gpu:
        doctor_gpu()
        return
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("what", "found", ""):
        table.add_column(header)
    rows = [*_software(), *_hardware(), *_engines(), *_embedded()]
    problem: AdaptVisError | None = None
    if model is not None:
        try:
            rows.append(_model(model, trust_remote_code))
        except AdaptVisError as raised:
            problem = raised
            rows.append((f"model {model}", "would not be steered", _BAD))
    for what, found, state in rows:
        table.add_row(Text(what), Text(found), state)
    out().print(table)
    if problem is not None:
        error(str(problem))
    if any(state is _BAD for _, _, state in rows):
        raise typer.Exit(2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _software() -> Iterator[Row]:
    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}", _GOOD
    yield "adaptvis", __version__, _GOOD
    for package in _REQUIRED:
        found = _version(package)
        yield package, found or f"missing: pip install {package}", _GOOD if found else _BAD
    for package in _OPTIONAL:
        found = _version(package)
        yield package, found or "not installed", _GOOD if found else _ABSENT


def _hardware() -> Iterator[Row]:
    if _version("torch") is None:
        return
    import torch

    kind = "ROCm" if torch.version.hip else "CUDA"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield (
                f"{kind} device {index}",
                f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB, "
                f"{torch.version.hip or torch.version.cuda}",
                _GOOD,
            )
    else:
        yield (
            "device",
            f"CPU, {torch.get_num_threads()} threads (no CUDA or ROCm device that torch can use)",
            _GOOD,
        )


def _engines() -> Iterator[Row]:
    if _version("torch") is None or _version("transformers") is None:
        yield "engine hf", "needs torch and transformers", _BAD
        return
    try:
        from adaptvis.hf.families import known_families
    except ImportError as problem:
        yield "engine hf", f"cannot be imported: {problem}", _BAD
        return
    yield "engine hf", f"runs; families {', '.join(known_families())}", _GOOD
    yield "steered attention", "PyTorch, for the re-run of the last prompt token", _GOOD
    kernels = find_spec("adaptvis_kernels") is not None
    yield (
        "Triton kernels",
        "adaptvis_kernels is installed" if kernels else "not part of this installation",
        _GOOD if kernels else _ABSENT,
    )


def _embedded() -> Iterator[Row]:
    from adaptvis.cli.models import CONVERGED, SHORTCUT, embedded_models
    from adaptvis.presets import load_model_presets

    models = embedded_models()
    for name, folder in models.items():
        try:
            presets = load_model_presets(folder)
        except AdaptVisError as problem:
            yield f"model {name}", str(problem), _BAD
            continue
        settings = f"tuned settings: {', '.join(presets)}" if presets else "no tuned settings"
        yield f"model {name}", f"embedded; {settings}", _GOOD
    for name in (CONVERGED, SHORTCUT):
        if name not in models:
            yield f"model {name}", "missing; adaptvis eval needs it without --model", _BAD


def _model(text: str, trust_remote_code: bool) -> Row:
    from adaptvis.cli.models import model_config, resolve_model
    from adaptvis.hf.families import family_for

    model = resolve_model(text)
    config = model_config(model, trust_remote_code)
    family = family_for(config)
    layers = config.get_text_config().num_hidden_layers
    token = family.placeholder_of(config)
    return (
        f"model {model.name}",
        f"would be steered: family {family.model_type}, {layers} layers, image token {token}",
        _GOOD,
    )
