"""`training.json`: what a run is, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptvis.errors import OtherRunError, OutputError
from adaptvis.evaluation.output import check_output, differences, write_atomically

__all__ = ["LOG", "RECORD", "begin_record", "read_record", "update_record"]

RECORD = "training.json"
LOG = "train_log.jsonl"


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


def begin_record(output: Path, run: Mapping[str, Any], *, resume: bool) -> None:
    """Store what the run is, or compare it with the one to resume.

    Raises:
        OutputError: the folder cannot be written, or holds something and `resume` is off.
        OtherRunError: it holds a run of another recipe or seed.
    """
    found = read_record(output) if resume else None
    check_output(output, resume=resume)
    wanted = json.loads(json.dumps(run))
    if found is None:
        if any(p for p in output.iterdir() if not p.name.startswith(".")):
            raise OutputError(
                f"The folder {output} has no {RECORD}, so there is no run to resume; choose "
                "another --output"
            )
        write_atomically(output / RECORD, _text({**wanted, "status": "running"}))
        return
    changes = differences({k: found.get(k) for k in wanted}, wanted)
    if changes:
        raise OtherRunError(
            f"The run in {output} was started with another configuration ({'; '.join(changes)}); "
            "repeat the same options, or choose another --output"
        )


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
