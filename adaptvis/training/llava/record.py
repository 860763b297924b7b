"""`training.json`: what a run is, and what came of it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adaptvis.errors import OtherRunError, OutputError
from adaptvis.evaluation.output import check_output, differences, write_atomically
from adaptvis.training.llava.checkpoints import last_complete
from adaptvis.training.llava.processes import is_first

__all__ = [
    "DATA",
    "LOG",
    "RECORD",
    "begin_record",
    "read_record",
    "untouched_if_refused",
    "update_record",
]

RECORD = "training.json"
LOG = "train_log.jsonl"
DATA = "data"
"""Folder of the generated conversations."""


def read_record(output: Path) -> dict[str, Any] | None:
    """The folder's record, or None where there is no run.

    Raises:
        OutputError: there is one and it cannot be read.
    """
    path = output / RECORD
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); choose another --output") from None


@contextmanager
def untouched_if_refused(output: Path) -> Iterator[None]:
    """Take back what was written into the folder by a run that ends before its first step."""
    there = {p.name for p in output.iterdir()} if output.is_dir() else None
    absent = [p for p in output.absolute().parents if not p.exists()]
    try:
        yield
    except BaseException:
        if is_first() and output.is_dir() and not (output / LOG).exists():
            _take_back(output, there, absent)
        raise


def _take_back(output: Path, there: set[str] | None, absent: list[Path]) -> None:
    for path in output.iterdir():
        if path.name not in (there or ()):
            _remove(path)
    if there is None:
        with suppress(OSError):  # somebody else may have begun to use one of them
            for folder in (output, *absent):
                folder.rmdir()


def begin_record(output: Path, run: Mapping[str, Any], *, resume: bool) -> None:
    """Store what the run is, or compare it with the one to resume.

    A run of which nothing was trained yet may be replaced by any other. Of stages that are not
    done, learning rate, warm-up and gradient clipping may change; the record keeps what they were.

    Raises:
        OutputError: the folder cannot be written, or holds something and `resume` is off.
        OtherRunError: it holds a run of another recipe or seed.
    """
    wanted = json.loads(json.dumps(run))
    # The log begins with the first step, and what has none was refused or killed before.
    unbegun = not _has_weights(output) and (resume or not (output / LOG).exists())
    found = read_record(output) if resume or unbegun else None
    ours: set[str] = set()
    if found is not None and unbegun:
        other = bool(differences({k: found.get(k) for k in wanted}, wanted))
        _clear(output, found, data=other or not resume)
        found = None
        ours = {DATA}
    check_output(output, resume=resume)
    if found is None:
        if any(p for p in output.iterdir() if not p.name.startswith(".") and p.name not in ours):
            raise OutputError(
                f"The folder {output} has no {RECORD}, so there is no run to resume; choose "
                "another --output"
            )
        write_atomically(output / RECORD, _text({**wanted, "status": "running"}))
        return
    known = {k: found.get(k) for k in wanted}
    changes = differences(_fixed(output, found, known), _fixed(output, found, wanted))
    if changes:
        raise OtherRunError(
            f"The run in {output} was started with another configuration ({'; '.join(changes)}); "
            "repeat the same options, or choose another --output"
        )
    allowed = differences(known, wanted, most=100)
    if allowed:
        change = {"behind": _reached(output, wanted), "settings": allowed}
        update_record(output, {**wanted, "changed": [*found.get("changed", []), change]})


def _fixed(output: Path, found: Mapping[str, Any], run: Mapping[str, Any]) -> Any:
    """The run without what may change when it is resumed."""
    fixed = copy.deepcopy(dict(run))
    if found.get("status") == "finished":
        return fixed
    for stage in fixed["recipe"]["stages"]:
        if not (output / stage["name"] / "model").is_dir():
            for name in ("learning_rate", "warmup", "max_grad_norm"):
                stage.pop(name, None)
    (fixed["recipe"].get("lora") or {}).pop("learning_rate", None)
    return fixed


def _reached(output: Path, run: Mapping[str, Any]) -> str:
    for stage in reversed(run["recipe"]["stages"]):
        folder = output / stage["name"]
        checkpoint = last_complete(folder)
        if checkpoint is not None or (folder / "model").is_dir():
            return f"{stage['name']}/{checkpoint.name if checkpoint else 'model'}"
    return ""


def _has_weights(output: Path) -> bool:
    return (output / "config.json").exists() or any(
        any(output.glob(pattern)) for pattern in ("*/model", "*/checkpoint-*/complete.json")
    )


def _clear(output: Path, found: Mapping[str, Any], *, data: bool) -> None:
    stages = [stage["name"] for stage in found.get("recipe", {}).get("stages", ())]
    for name in (*stages, LOG, RECORD, *([DATA] if data else [])):
        _remove(output / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def update_record(output: Path, values: Mapping[str, Any], *, fixed: bool = False) -> None:
    """Add to the record; with `fixed`, what is there already must be the same.

    Raises:
        OtherRunError: it is not.
    """
    found = read_record(output) or {}
    values = json.loads(json.dumps(values))
    if fixed:
        known = {k: found[k] for k in values if k in found}
        changes = differences(known, {k: values[k] for k in known})
        if changes:
            raise OtherRunError(
                f"The run in {output} was started with other data ({'; '.join(changes)}); bring "
                "that data back, or choose another --output"
            )
    write_atomically(output / RECORD, _text({**found, **values}))


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
