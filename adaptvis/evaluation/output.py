"""The folder that a run writes to, and the configuration that must not change under it.

`run.json` is written before the first question is asked; a resumed run must match it.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptvis.errors import OtherRunError, OutputError
from adaptvis.files import replace_whole

__all__ = [
    "RECORDS",
    "RUN",
    "SUMMARY",
    "SWEEP",
    "check_output",
    "differences",
    "fresh_folder",
    "placeless",
    "prepare_output",
    "write_atomically",
]

RUN = "run.json"
RECORDS = "records.jsonl"
SUMMARY = "summary.json"
SWEEP = "sweep.json"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it.

    Raises:
        OutputError: the folder is not writable or full.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        replace_whole(path, data)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}") from None


def fresh_folder(base: Path) -> Path:
    """`base`, or the first of `base-2`, `base-3`, ... that does not hold anything yet."""
    folder, number = base, 1
    while folder.exists() and not (folder.is_dir() and not _held(folder)):
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def check_output(folder: Path, *, resume: bool) -> None:
    """Make the folder and try to write in it, before any work is done.

    Raises:
        OutputError: it cannot be written, or it holds something and `resume` is off.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _held(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write to the folder {folder}: {error.strerror}") from None
    if held and not resume:
        what = "results" if RECORDS in held else "other files"
        raise OutputError(
            f"The folder {folder} already holds {what}; add --resume to finish an interrupted "
            "run, or choose another --output"
        )


def prepare_output(folder: Path, run: Mapping[str, Any], *, resume: bool) -> None:
    """Store the run's configuration in the folder, or compare it with the one to resume.

    A folder in which no question was answered yet counts as empty.

    Raises:
        OutputError: see :func:`check_output`.
        OtherRunError: `resume` is on and the folder's run was configured differently.
    """
    check_output(folder, resume=resume)
    stored = folder / RUN
    wanted = json.loads(json.dumps(run))
    if not _held(folder):
        write_atomically(stored, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = json.loads(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(
            f"The folder {folder} has no readable {RUN}, so there is no run to resume; choose "
            "another --output"
        ) from None
    if placeless(found) != placeless(wanted):
        changes = "; ".join(differences(placeless(found), placeless(wanted)))
        raise OtherRunError(
            f"The run in {folder} was started with another configuration ({changes}); repeat "
            "the same options, or choose another --output"
        )


def _held(folder: Path) -> set[str]:
    """Names of what a new run would mix with."""
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    records = folder / RECORDS
    if names <= {RUN, RECORDS} and not (records.is_file() and records.stat().st_size):
        return set()
    return names


def placeless(configuration: Any) -> Any:
    """A configuration as JSON values without paths, which differ between folders and machines.

    A local model is known by its fingerprint, and data by the prompts' hash.
    """
    if isinstance(configuration, list):
        return [placeless(value) for value in configuration]
    if not isinstance(configuration, dict):
        return configuration
    left_out = {"data"}
    if configuration.get("fingerprint"):
        left_out |= {"source", "model_source"}
    return {k: placeless(v) for k, v in configuration.items() if k not in left_out}


def differences(found: Any, wanted: Any, path: str = "", most: int = 3) -> list[str]:
    """Where two JSON values differ, as up to `most` short texts; none where they are equal."""
    if found == wanted:
        return []
    if isinstance(found, dict) and isinstance(wanted, dict):
        texts = []
        for key in sorted(set(found) | set(wanted)):
            if found.get(key) != wanted.get(key):
                step = f"{path}.{key}" if path else key
                texts += differences(found.get(key), wanted.get(key), step, most)
        return texts[:most]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        texts = []
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            if pair[0] != pair[1]:
                texts += differences(*pair, f"{path}[{index}]", most)
        return texts[:most]
    return [f"{path or 'run'} was {_short(found)}, now {_short(wanted)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
