"""Where the Trainer reports to, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from adaptvis.errors import ConfigError, unknown_name

__all__ = ["REPORTERS", "require_reporters"]

REPORTERS = ("tensorboard", "wandb")


def require_reporters(names: Iterable[str]) -> None:
    """Refuse a reporter that is unknown or not installed.

    Raises:
        ConfigError: which one, and how to install it.
    """
    for name in names:
        if name not in REPORTERS:
            raise ConfigError(unknown_name("reporter", name, REPORTERS))
        if find_spec(name) is None:
            raise ConfigError(f"--report-to {name} needs {name}; pip install {name} brings it")
