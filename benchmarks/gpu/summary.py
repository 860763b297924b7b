"""summary.md: every stage that has run, and every target beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from gpu.stage import STAGES, described, stem_of, targets_table


def write_summary(folder: Path) -> Path:
    """From the stages' own pages in ``folder``; returns the path."""
    pages = []
    for stage in STAGES:
        path = folder / f"{stem_of(stage)}.json"
        if path.is_file():
            pages.append(json.loads(path.read_text(encoding="utf-8")))
    lines = ["# On a GPU", ""]
    if any(page["smoke"] for page in pages):
        lines += ["**Smoke run: tiny shapes, no GPU. Its times mean nothing.**", ""]
    machines = list(dict.fromkeys(tuple(described(p["machine"], p["versions"])) for p in pages))
    for one in machines:
        lines += [*one, ""]
    lines += ["| stage | state | parts | s | |", "|---|---|---|---|---|"]
    for page in pages:
        notes = page["detail"].replace("|", "/")
        if page["left_out"]:
            notes = (
                f"{len(page['left_out'])} parts left out for lack of time; run it again. {notes}"
            )
        lines.append(
            f"| [{page['stage']}]({stem_of(page['stage'])}.md) | {page['state']} "
            f"| {page['finished']} of {page['planned']} | {page['seconds']:.0f} | {notes.strip()} |"
        )
    targets = [target for page in pages for target in page["targets"]]
    if targets:
        lines += ["", "## Targets", "", *targets_table(targets)]
    path = folder / "summary.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
