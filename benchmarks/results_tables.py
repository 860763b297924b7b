"""Write the result tables of the README and of the model card from one evaluation.

    adaptvis eval -m tiny-2ds-seed0 -m tiny-2ds-shortcut-seed0 \\
        -m tiny-2ds-seed1 -m tiny-2ds-shortcut-seed1 --output results
    python benchmarks/results_tables.py results/summary.json
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptvis.tasks import get_task

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "adaptvis/assets/models/README.md"
README = ROOT / "README.md"
METHODS = {
    "scalingvis": "ScalingVis",
    "adaptvis": "AdaptVis",
    "scalingvis-text": "ScalingVis, text rows",
}
ALL = "all questions"
Rows = list[dict[str, Any]]


def points(gain: dict[str, Any]) -> str:
    """A paired gain in percentage points with its 95 % interval; bold where reliable."""
    text = f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    return f"**{text}**" if gain["low"] > 0 or gain["high"] < 0 else text


def find(rows: Rows, **wanted: Any) -> dict[str, Any]:
    """The one row with these values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def overview(summary: dict[str, Any]) -> list[str]:
    """One line per model and task: baseline accuracy and the gain of each method."""
    lines = [
        f"| model | task | n | unsteered | {' | '.join(METHODS.values())} |",
        "|---|---|---|---|---|---|---|",
    ]
    for base in summary["accuracies"]:
        if base["grouping"] != "all" or base["method"] != "baseline":
            continue
        where = {"model": base["model"], "task": base["task"], "grouping": "all", "group": ALL}
        gains = [
            points(find(summary["gains"], **where, method=method, reference="baseline"))
            for method in METHODS
        ]
        cells = [
            base["model"],
            base["task"],
            str(base["questions"]),
            f"{100 * base['accuracy']:.1f} %",
            *gains,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def chances(task: str) -> dict[str, float]:
    """Accuracy of guessing among the candidates, per category."""
    shares: dict[str, list[float]] = defaultdict(list)
    for sample in get_task(task).load():
        shares[sample.category].append(1 / len(sample.candidates))
    return {category: sum(values) / len(values) for category, values in shares.items()}


def categories(summary: dict[str, Any]) -> list[str]:
    """Every category of every model and task, with counts, chance and gains."""
    lines = []
    pairs = dict.fromkeys((row["model"], row["task"]) for row in summary["accuracies"])
    for model, task in pairs:
        chance = chances(task)
        lines += [
            f"\n**{model}** on `{task}`\n",
            f"| category | unsteered | chance | {' | '.join(METHODS.values())} |",
            "|---|---|---|---|---|---|",
        ]
        rows = [
            row
            for row in summary["accuracies"]
            if (row["model"], row["task"], row["method"]) == (model, task, "baseline")
            and row["grouping"] in ("category", "prior")
        ]
        for row in rows:
            where = {key: row[key] for key in ("model", "task", "grouping", "group")}
            gains = [
                points(find(summary["gains"], **where, method=method, reference="baseline"))
                for method in METHODS
            ]
            level = f"{100 * chance[row['group']]:.0f} %" if row["group"] in chance else ""
            cells = [
                row["group"],
                f"{100 * row['accuracy']:.1f} % ({row['correct']}/{row['questions']})",
                level,
                *gains,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def settings(summary: dict[str, Any]) -> list[str]:
    """The configuration of every method, as it was run."""
    lines = ["| model | method | setting |", "|---|---|---|"]
    for model in summary["run"]["models"]:
        for method in model["methods"]:
            if method["name"] in METHODS:
                values = {k: v for k, v in method["config"].items() if k not in ("method", "rows")}
                text = ", ".join(f"{key} {value}" for key, value in values.items())
                lines.append(f"| {model['name']} | {method['name']} | {text} |")
    return lines


def insert(path: Path, marker: str, lines: list[str]) -> None:
    """Replace what stands between the marker's two comments."""
    start, end = f"<!-- {marker} -->", f"<!-- end {marker} -->"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    path.write_text(before + start + "\n" + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def main(
    summary_file: Annotated[Path, typer.Argument(help="summary.json of the evaluation.")],
) -> None:
    """Fill the marked tables of README.md and of the model card."""
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    insert(CARD, "overview", overview(summary))
    insert(CARD, "settings", settings(summary))
    insert(CARD, "categories", categories(summary))
    insert(README, "results", overview(summary))


if __name__ == "__main__":
    typer.run(main)
