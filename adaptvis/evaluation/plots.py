"""Accuracy against the number of objects as a PNG: one panel per model and task."""

import io
from pathlib import Path
from typing import Any

from adaptvis.evaluation.output import write_atomically
from adaptvis.evaluation.summary import Accuracy, Summary

__all__ = ["plot_object_counts"]

# Okabe and Ito (2008): distinguishable with any colour vision.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = "osD^vPX*"


def plot_object_counts(summary: Summary, path: Path) -> bool:
    """Write the plot; False, and no file, where no question has a number of objects.

    Raises:
        OutputError: the file cannot be written.
    """
    models = list(dict.fromkeys(m for m, _ in summary.pairs()))
    tasks = [
        task
        for task in dict.fromkeys(t for _, t in summary.pairs())
        if any(summary.accuracies_of(model, task, "object_count") for model in models)
    ]
    if not tasks:
        return False

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing global is left behind in the user's process.
    figure = Figure(
        figsize=(1.2 + 3.4 * len(tasks), 1.3 + 2.7 * len(models)), layout="constrained", dpi=150
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(models), len(tasks), sharex=False, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for row, model in zip(panels, models, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            handles |= _panel(axes, summary, model, task)
            axes.set_title(_label(f"{model}\n{task}"), fontsize=9)
        row[0].set_ylabel("accuracy (%)")
    for axes in panels[-1]:
        axes.set_xlabel("objects in the picture")
    panels[0][0].set_ylim(0, 102)
    figure.legend(
        handles.values(),
        map(_label, handles),
        loc="outside lower center",
        frameon=False,
        ncols=min(4, len(handles)),
    )
    figure.suptitle("Accuracy and 95 % intervals by number of objects", fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return True


def _panel(axes: Any, summary: Summary, model: str, task: str) -> dict[str, Any]:
    """Draw one model on one task; returns the legend handle of each method."""
    by_method: dict[str, list[Accuracy]] = {}
    for accuracy in summary.accuracies_of(model, task, "object_count"):
        by_method.setdefault(accuracy.method, []).append(accuracy)
    handles = {}
    for index, (method, points) in enumerate(by_method.items()):
        # Side by side, so that intervals of equal accuracies do not hide each other.
        shift = 0.12 * (index - (len(by_method) - 1) / 2)
        handles[method] = axes.errorbar(
            [int(a.group) + shift for a in points],
            [100 * a.accuracy for a in points],
            yerr=[
                [100 * (a.accuracy - a.low) for a in points],
                [100 * (a.high - a.accuracy) for a in points],
            ],
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            linewidth=1.3,
            elinewidth=1,
            capsize=2,
        )
    counts = sorted({int(a.group) for points in by_method.values() for a in points})
    if len(counts) <= 10:
        axes.set_xticks(counts)
    axes.set_xlim(counts[0] - 0.5, counts[-1] + 0.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _label(text: str) -> str:
    """Text as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")
