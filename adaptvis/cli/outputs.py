"""The folder that a command writes to where --output names none."""

from pathlib import Path

__all__ = ["default_output"]


def default_output(base: Path, *, resume: bool) -> Path:
    """`base`, or `base-2`, `base-3`, ...: the first free one, or to resume the last one there."""
    from adaptvis.evaluation.output import fresh_folder

    if not resume:
        return fresh_folder(base)
    newest, number = base, 2
    while (candidate := base.with_name(f"{base.name}-{number}")).is_dir():
        newest, number = candidate, number + 1
    return newest
