"""Train the tiny variants of Beyond Semantics with equal budgets, look at them, write the table.

    python benchmarks/variants.py --output variants --seeds 3

Everything goes through the command line of adaptvis: train, eval, diagnose. What is finished is
kept, so an interrupted run continues where it was. Writes benchmarks/results/variants.{json,md,png}
and, with --readme, the README's table.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from results_tables import README, insert

RESULTS = Path(__file__).resolve().parent / "results"
VARIANTS = {
    "baseline": "baseline",
    "normalize": "+ Normalize",
    "normalize-multilayer": "+ Normalize + Multilayer",
}
CATEGORIES = {
    "color_absolute": "colour abs.",
    "color_relative": "colour rel.",
    "shape_absolute": "shape abs.",
    "shape_relative": "shape rel.",
    "shape_color_absolute": "both abs.",
    "shape_color_relative": "both rel.",
}
# Beyond Semantics, tables 2 to 4: LLaVA-1.5-7B on the published 2DS.
PAPER = {
    "baseline": ([79.60, 37.00, 78.60, 34.40, 70.80, 39.40], 56.63, 41.07, 0.76),
    "normalize": ([88.00, 42.40, 79.00, 32.80, 71.80, 41.80], 59.30, 61.21, 0.90),
    "normalize-multilayer": ([87.80, 47.20, 82.20, 40.80, 80.20, 50.60], 64.80, 54.21, 0.72),
}
SMOOTHED = 20
Run = dict[str, Any]


def adaptvis(*arguments: str) -> None:
    """One command of adaptvis; its failure ends the script with the same exit code."""
    typer.echo(f"adaptvis {' '.join(arguments)}")
    code = subprocess.run([sys.executable, "-m", "adaptvis", *arguments], check=False).returncode
    if code:
        raise typer.Exit(code)


def trained(folder: Path, variant: str, seed: int) -> Path:
    """The trained model of a variant and seed, in its own folder."""
    model = folder / "models" / f"{variant}-seed{seed}"
    if not (model / "model.safetensors").is_file():
        resume = ["--resume"] if model.is_dir() and any(model.iterdir()) else []
        recipe = ["--recipe", f"tiny-2ds-{variant}", "--seed", str(seed)]
        adaptvis("train", *recipe, "--output", str(model), *resume)
    return model


def accuracies(folder: Path, model: Path) -> dict[str, float]:
    """Test accuracy on 2DS in per cent, overall and by category."""
    output = folder / "eval" / model.name
    if not (output / "summary.json").is_file():
        resume = ["--resume"] if output.is_dir() else []
        task = ["--task", "2ds", "--method", "baseline"]
        adaptvis("eval", "--model", str(model), *task, "--output", str(output), *resume)
    rows = json.loads((output / "summary.json").read_text())["accuracies"]
    return {
        row["group"]: 100 * row["accuracy"]
        for row in rows
        if row["grouping"] in ("all", "category")
    }


def instrument(folder: Path, model: Path, name: str, limit: int) -> dict[str, Any]:
    """The summary of one diagnostic instrument on test questions."""
    output = folder / "diagnose" / model.name
    if not (output / f"{name}.json").is_file():
        options = ["--task", "2ds", "--limit", str(limit), "--output", str(output)]
        adaptvis("diagnose", name, "--model", str(model), *options)
    found: dict[str, Any] = json.loads((output / f"{name}.json").read_text())["summary"]
    return found


def measured(folder: Path, variant: str, seed: int, limit: int) -> Run:
    """All figures of one trained model."""
    model = trained(folder, variant, seed)
    norms = instrument(folder, model, "norms", limit)
    attention = instrument(folder, model, "attention", limit)
    permutation = instrument(folder, model, "permutation", limit)
    return {
        "variant": variant,
        "seed": seed,
        "accuracy": accuracies(folder, model),
        "PSI": 100 * permutation["PSI"],
        "entropy": attention["text rows, unsteered"]["entropy (mean, low, high)"][0],
        "image norms": norms["image tokens"],
        "text norms": norms["embedding table"],
        "loss": losses(model),
    }


def losses(model: Path) -> list[tuple[str, int, float]]:
    """The training loss as (stage, step, loss)."""
    lines = (model / "train_log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["stage"], r["step"], r["loss"]) for r in records if "loss" in r]


def over_seeds(values: list[float], digits: int = 1) -> str:
    """Mean over seeds, with the smallest and the largest."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(runs: list[Run]) -> list[str]:
    """Ours, and the paper's figures of LLaVA-1.5-7B below."""
    head = [*CATEGORIES.values(), "2DS", "PSI", "entropy", "image norm", "text norm"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for variant, label in VARIANTS.items():
        ours = [run for run in runs if run["variant"] == variant]
        cells = [
            *(over_seeds([run["accuracy"][name] for run in ours]) for name in CATEGORIES),
            over_seeds([run["accuracy"]["all questions"] for run in ours]),
            over_seeds([run["PSI"] for run in ours]),
            over_seeds([run["entropy"] for run in ours], 2),
            over_seeds([run["image norms"]["mean"] for run in ours]),
            over_seeds([run["text norms"]["mean"] for run in ours]),
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for variant, label in VARIANTS.items():
        by_category, overall, sensitivity, entropy = PAPER[variant]
        figures = [*by_category, overall, sensitivity]
        cells = [*(f"{figure:.1f}" for figure in figures), f"{entropy:.2f}"]
        norms = ["10-1000", "0.83"] if variant == "baseline" else ["", "0.83"]
        lines.append(f"| *paper, {label}* | {' | '.join([*cells, *norms])} |")
    return lines


def running_mean(values: list[float]) -> list[float]:
    """Means of SMOOTHED values up to and including each."""
    windows = range(SMOOTHED, len(values) + 1)
    return [statistics.fmean(values[stop - SMOOTHED : stop]) for stop in windows]


def plot(runs: list[Run], path: Path) -> None:
    """Training loss of every run against the step, stages one behind the other."""
    from matplotlib.figure import Figure

    colours = dict(zip(VARIANTS, ("#000000", "#0072B2", "#D55E00"), strict=True))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    boundary = 0
    for run in runs:
        first = run["loss"][0][0]
        boundary = max(step for stage, step, _ in run["loss"] if stage == first)
        steps = [step if stage == first else boundary + step for stage, step, _ in run["loss"]]
        label = VARIANTS[run["variant"]] if run["seed"] == 0 else None
        values = running_mean([loss for _, _, loss in run["loss"]])
        axes.plot(
            steps[-len(values) :], values, color=colours[run["variant"]], label=label, linewidth=1.2
        )
    axes.axvline(boundary, color="#888888", linewidth=0.8, linestyle="--")
    axes.text(boundary, 0.98, "  language model trains, too", va="top", fontsize=9,
              transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(
        xlabel="optimizer step", ylabel=f"training loss, mean of {SMOOTHED} steps", yscale="log"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(
    output: Annotated[Path, typer.Option(help="Folder for models, evaluations, diagnoses.")],
    seeds: Annotated[int, typer.Option(help="Seeds per variant, from 0.", min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Test questions per instrument.", min=6)] = 600,
    readme: Annotated[bool, typer.Option("--readme", help="Fill the README's table.")] = False,
) -> None:
    """Train, evaluate and diagnose every variant and seed; write table and picture."""
    runs = [measured(output, variant, seed, limit) for seed in range(seeds) for variant in VARIANTS]
    lines = table(runs)
    RESULTS.mkdir(exist_ok=True)
    kept = [{key: value for key, value in run.items() if key != "loss"} for run in runs]
    (RESULTS / "variants.json").write_text(json.dumps(kept, indent=1) + "\n")
    command = f"python benchmarks/variants.py --output variants --seeds {seeds} --limit {limit}"
    (RESULTS / "variants.md").write_text(
        "# The tiny variants\n\n"
        f"`{command}`: mean over {seeds} seeds (smallest-largest). Accuracy in % on the 3000 test "
        "questions of 2DS; PSI in %, attention entropy (of the text rows behind the image, as in "
        f"the paper's table 4; mean of layers and heads) and norms on {limit} of them. Below, the "
        "paper's figures for LLaVA-1.5-7B on its own 2DS, for orientation.\n\n"
        + "\n".join(lines)
        + "\n\n![training loss](variants.png)\n"
    )
    plot(runs, RESULTS / "variants.png")
    if readme:
        insert(README, "variants", lines)
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
