"""Where a model is: in the package, in a folder or on the hub; and what is said if nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from adaptvis.errors import CheckpointError

__all__ = ["embedded_models", "hub_problem", "quiet_hub", "require_place"]


def embedded_models() -> dict[str, Path]:
    """The models that came with the package, by name."""
    folder = Path(str(files("adaptvis"))) / "assets" / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def require_place(source: str | Path) -> None:
    """Refuse what is neither a model's folder nor can be a hub id, before the hub is asked.

    Raises:
        CheckpointError: one sentence, with the embedded model that may have been meant.
    """
    path, text = Path(source).expanduser(), str(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"The folder {source} holds no model: it has no config.json; give the folder that "
                "save_pretrained wrote"
            )
        return
    if path.exists():
        raise CheckpointError(f"The model {source} is a file; give the folder that contains it")
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or _meant(text, cutoff=0.8):
        raise CheckpointError(
            f"There is no model folder {source}; give one, or a hub id such as org/name"
            f"{_meant(text)}"
        )


def hub_problem(error: BaseException, source: str | Path) -> str | None:
    """What is wrong in one sentence, if ``error`` comes from asking the hub for ``source``."""
    if Path(source).expanduser().is_dir():
        return None
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(one, GatedRepoError) for one in chain):
        return f"The hub gives {source} only to those who were granted access; log in with hf auth"
    none = f"There is no model {source}: no folder of that name exists"
    advice = f"give an existing folder, or a hub id such as org/name{_meant(str(source))}"
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return f"{none}, and the hub knows none (or it is private: log in with hf auth); {advice}"
    offline = any("offline" in type(one).__name__.lower() for one in chain)
    reached = any(isinstance(one, HfHubHTTPError) for one in chain)
    if offline or "couldn't connect" in str(error) or _is_connection(chain):
        return f"{none}, it is not in the cache, and the hub cannot be reached; {advice}"
    if reached or "is not a valid model identifier" in str(error):
        return f"{none}, and the hub gives none; {advice}"
    return None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub library's lines about each attempt, which stand before our sentence."""
    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_connection(chain: list[BaseException]) -> bool:
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    return not names.isdisjoint({"LocalEntryNotFoundError", "ConnectionError", "TransportError"})


def _meant(text: str, cutoff: float = 0.6) -> str:
    if "/" in text:
        return ""
    near = get_close_matches(text, embedded_models(), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
