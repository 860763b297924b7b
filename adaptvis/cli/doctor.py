"""`adaptvis doctor`: what is installed, what would run, and whether a model would be steered."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from adaptvis import __version__
from adaptvis.cli.console import error, out
from adaptvis.cli.doctor_check import doctor_check
from adaptvis.cli.doctor_gpu import doctor_gpu
from adaptvis.cli.requirements import requirements
from adaptvis.errors import AdaptVisError

__all__ = ["doctor"]

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
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Steer a tiny model of every family and compare with the definition."
        ),
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check and time the kernels on the GPU, for an issue.")
    ] = False,
) -> None:
    """Show what is installed, which engines run, and what would steer attention on this machine.

    Exit code 2 where something is amiss: a required package is missing, an installed one has a
    version that adaptvis does not work with, the model would not be steered, or a check fails.
    """
    if check:
        doctor_check()
    if gpu:
        doctor_gpu()
    if check or gpu:
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


def _software() -> Iterator[Row]:
    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}", _GOOD
    known = requirements()
    if known is None:
        text = f"{__version__}, run from its source: what it requires is not known"
        yield "adaptvis", text, _ABSENT
        return
    yield "adaptvis", __version__, _GOOD
    packages = list(known)
    # Either serves: the other one's absence says nothing.
    vllms = [one for one in packages if one.extra.startswith("vllm")]
    hidden = {one.package for one in vllms if any(o.found for o in vllms) and not one.found}
    for one in packages:
        kind = "optional" if one.extra else "required"
        what = f"{one.package} ({kind})"
        if one.fits:
            yield what, str(one.found), _GOOD
        elif one.found is not None:
            yield what, f"{one.found}, and {one.wanted} is wanted", _BAD
        elif not one.extra:
            yield what, f"missing: pip install '{one.package}{one.wanted}'", _BAD
        elif one.package not in hidden:
            how = f"pip install 'adaptvis[{one.extra}]'"
            yield what, f"not installed; for {one.purpose}: {how}", _ABSENT


def _hardware() -> Iterator[Row]:
    if find_spec("torch") is None:
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
    if find_spec("torch") is None or find_spec("transformers") is None:
        yield "engine hf", "needs torch and transformers", _BAD
        return
    try:
        from adaptvis.hf.families import known_families
    except ImportError as problem:
        yield "engine hf", f"cannot be imported: {problem}", _BAD
        return
    except AdaptVisError as problem:
        yield "engine hf", str(problem), _BAD
        return
    yield "engine hf", f"runs; families {', '.join(known_families())}", _GOOD
    yield _vllm()
    yield from _steered_attention()


def _vllm() -> Row:
    from adaptvis.cli.models import vllm_is_installed
    from adaptvis.vllm.plugin import DISABLE, check_vllm, installed_version
    from adaptvis.vllm.support import switched_on

    if not vllm_is_installed():
        return "engine vllm", "not installed", _ABSENT
    try:
        if switched_on(DISABLE):
            text = f"{installed_version()}; nothing is steered: {DISABLE} is set"
            return "engine vllm", text, _ABSENT
        verdict = check_vllm()
    except AdaptVisError as problem:
        return "engine vllm", str(problem), _BAD
    found = verdict.version
    plugins = {p.name for p in entry_points(group="vllm.general_plugins")}
    named = os.environ.get("VLLM_PLUGINS")
    if "adaptvis" not in plugins:
        text = "its plugin is not registered; install adaptvis into this environment"
        return "engine vllm", f"{found}; {text}", _BAD
    if named is not None and "adaptvis" not in named.split(","):
        return "engine vllm", f"{found}; VLLM_PLUGINS leaves adaptvis out", _BAD
    if not verdict.known:
        text = f"unknown, and steered all the same: {verdict.reason}"
        return "engine vllm", f"runs; {text}", _GOOD
    how = "tested" if verdict.tested else "read, and its tests were not run on it"
    return "engine vllm", f"runs; vLLM {found} ({how}) with the plugin of adaptvis", _GOOD


def _steered_attention() -> Iterator[Row]:
    """What computes steered rows on each device that a model would run on."""
    import torch

    from adaptvis.steering.backend import backend_on

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]:
        try:
            backend, reason = backend_on(device)
        except AdaptVisError as problem:
            yield f"steered attention on {device}", str(problem), _BAD
            continue
        name = {"torch": "PyTorch", "triton": "Triton kernels"}[backend]
        yield f"steered attention on {device}", f"{name}: {reason}", _GOOD


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
