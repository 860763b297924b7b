"""Exceptions of adaptvis.

    AdaptVisError
    |-- ConfigError          (also ValueError)   a steering parameter or preset is wrong
    |   `-- OtherRunError                        the folder's run was configured differently
    |-- UnknownFamilyError   (also ValueError)   the model's family has no entry in the table
    |-- PromptError          (also ValueError)   image tokens, regions or rows do not fit the prompt
    |-- UnsupportedError     (also RuntimeError) a combination that is known and refused
    |-- DataError            (also ValueError)   a data set, image or record file cannot be used
    |-- CheckpointError                          a model directory is missing or incomplete
    `-- OutputError                              results cannot be written

    AdaptVisWarning          (UserWarning)       steering was requested and did not apply

Every message is one sentence: what was wrong, what was expected and how to mend it.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AdaptVisError",
    "AdaptVisWarning",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "OtherRunError",
    "OutputError",
    "PromptError",
    "UnknownFamilyError",
    "UnsupportedError",
    "unknown_name",
]


class AdaptVisError(Exception):
    """Base of every exception that adaptvis raises on purpose."""


class ConfigError(AdaptVisError, ValueError):
    """A steering parameter, method name or preset is wrong."""


class OtherRunError(ConfigError):
    """The folder holds a run that was started with another configuration."""


class UnknownFamilyError(AdaptVisError, ValueError):
    """The model's family is not in the table and none was declared."""


class PromptError(AdaptVisError, ValueError):
    """The prompt's image tokens, or a region, do not fit what was asked for."""


class UnsupportedError(AdaptVisError, RuntimeError):
    """The combination is understood but not supported; nothing was steered."""


class DataError(AdaptVisError, ValueError):
    """A data set, an image or a record file cannot be read."""


class CheckpointError(AdaptVisError):
    """A model directory is missing, incomplete or of another kind."""


class OutputError(AdaptVisError):
    """Results cannot be written where they were asked for."""


class AdaptVisWarning(UserWarning):
    """Steering did not apply (a prompt without an image), or runs in torch where kernels fail."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """One sentence for an unknown name: lists the known ones and suggests the nearest."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]!r}?" if near else ""
    tail = f" {hint}" if hint else ""
    return f"Unknown {kind} {name!r}: known are {', '.join(known)}{suggestion}{tail}"
