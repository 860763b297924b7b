"""The report's charts. Axes are in per cent; whiskers are 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from adaptvis.evaluation.report.drawing import Drawing
from adaptvis.evaluation.report.text import one_line, per_cent
from adaptvis.evaluation.results import Accuracy, Branch, Calibration
from adaptvis.evaluation.statistics import RELIABLE_GAIN, Gain

__all__ = [
    "COLOURS",
    "AlphaPoint",
    "accuracy_against_alpha",
    "accuracy_bars",
    "alpha_shares",
    "gain_strip",
    "reliability_diagram",
]

COLOURS = 8
"""Classes s0 to s7 of the style sheet; more methods start again."""

_WIDTH = 400.0
_FEWEST_IN_BIN = 10
"""Bins of fewer questions say little, and their long whiskers hide the others."""


@dataclass(frozen=True)
class AlphaPoint:
    """Accuracy under one constant coefficient."""

    alpha: float
    accuracy: float
    low: float
    high: float


def colour(index: int) -> str:
    return f"s{index % COLOURS}"


def accuracy_bars(accuracies: Sequence[Accuracy], methods: Sequence[str], what: str) -> Markup:
    """A group of bars for each group of questions, a bar for each method."""
    groups: dict[str, list[Accuracy]] = {}
    for accuracy in accuracies:
        groups.setdefault(accuracy.group, []).append(accuracy)
    bar, gap, head, left, right = 11.0, 2.0, 20.0, 6.0, 46.0
    block = head + len(methods) * (bar + gap) + 8
    height = len(groups) * block + 44
    drawing = Drawing(_WIDTH, height, f"Accuracy in per cent by {what}")
    scale = (_WIDTH - left - right) / 100
    bottom = height - 38
    for tick in range(0, 101, 25):
        x = left + tick * scale
        drawing.line(x, 0, x, bottom, "grid")
        anchor = "start" if tick == 0 else "middle"
        drawing.text(x, bottom + 15, f"{tick}", "tick", anchor)
    drawing.text(left + 50 * scale, bottom + 32, "accuracy (%)", "axis", "middle")
    for number, (group, members) in enumerate(groups.items()):
        top = number * block
        name = one_line(group.replace("_", " "), 44)
        drawing.text(left, top + 14, f"{name}  (n = {members[0].questions})", "label")
        for accuracy in members:
            index = methods.index(accuracy.method)
            y = top + head + index * (bar + gap)
            title = (
                f"{accuracy.method}: {per_cent(accuracy.accuracy)} % "
                f"({per_cent(accuracy.low)} to {per_cent(accuracy.high)})"
            )
            width = 100 * accuracy.accuracy * scale
            drawing.rect(left, y, width, bar, f"bar {colour(index)}", title)
            low, high = (left + 100 * v * scale for v in (accuracy.low, accuracy.high))
            drawing.line(low, y + bar / 2, high, y + bar / 2, "whisker")
            drawing.text(
                _WIDTH - 2, y + bar - 1.5, per_cent(accuracy.accuracy), "value number", "end"
            )
    return drawing.svg()


def gain_strip(gain: Gain, limit: float) -> Markup:
    """A gain and its interval between -limit and +limit, for a cell of a table."""
    width, height = 176.0, 20.0
    drawing = Drawing(width, height, f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f} points")

    def x_of(value: float) -> float:
        return width / 2 + (width / 2 - 5) * max(-1.0, min(1.0, value / limit))

    kind = {RELIABLE_GAIN: "gained", "reliable loss": "lost"}.get(gain.verdict, "unclear")
    drawing.line(x_of(-limit), height / 2, x_of(limit), height / 2, "grid")
    drawing.line(width / 2, 2, width / 2, height - 2, "zero")
    drawing.line(x_of(gain.low), height / 2, x_of(gain.high), height / 2, kind)
    drawing.circle(x_of(gain.mean), height / 2, 3.5, kind)
    return drawing.svg()


def reliability_diagram(calibrations: Sequence[Calibration], methods: Sequence[str]) -> Markup:
    """Accuracy against the unsteered confidence, and below how many questions had it."""
    left, top, side, strip = 46.0, 8.0, 320.0, 44.0
    axis = top + side
    fewest = _FEWEST_IN_BIN
    if all(part.questions < fewest for part in calibrations[0].bins):
        fewest = 1
    drawing = Drawing(_WIDTH, axis + strip + 62, "Accuracy against confidence, in per cent")

    def at(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + confidence * side, axis - accuracy * side

    for tick in range(0, 101, 20):
        x, y = at(tick / 100, tick / 100)
        drawing.line(left, y, left + side, y, "grid")
        drawing.line(x, top, x, axis, "grid")
        drawing.text(left - 6, y + 4, f"{tick}", "tick", "end")
        drawing.text(x, axis + strip + 24, f"{tick}", "tick", "middle")
    drawing.line(*at(0, 0), *at(1, 1), "diagonal")
    drawing.text(12, top + side / 2, "accuracy (%)", "axis", "middle", turn=-90)
    drawing.text(
        left + side / 2, axis + strip + 42, "confidence in the first token (%)", "axis", "middle"
    )
    for calibration in calibrations:
        index = methods.index(calibration.method)
        # Side by side, since methods share their confidences.
        shift = 3.0 * (index - (len(methods) - 1) / 2)
        points = []
        bins = [part for part in calibration.bins if part.questions >= fewest]
        for part in bins:
            x, y = at(part.mean_confidence, part.accuracy)
            drawing.line(
                x + shift,
                at(0, part.low)[1],
                x + shift,
                at(0, part.high)[1],
                f"whisker {colour(index)}",
            )
            points.append((x + shift, y))
        drawing.path(points, f"curve {colour(index)}")
        for (x, y), part in zip(points, bins, strict=True):
            title = (
                f"{calibration.method}, confidence {per_cent(part.start, 0)} to "
                f"{per_cent(part.end, 0)} %: accuracy {per_cent(part.accuracy)} % of "
                f"{part.questions} questions"
            )
            drawing.circle(x, y, 3.2, f"dot {colour(index)}", title)
    first = calibrations[0]
    most = max(part.questions for part in first.bins)
    base = axis + 8 + strip
    for part in first.bins:
        x, width = left + part.start * side, (part.end - part.start) * side
        tall = strip * part.questions / most
        title = f"{part.questions} questions"
        drawing.rect(x + 1, base - tall, width - 2, tall, "histogram", title)
    drawing.text(left - 6, base - strip + 12, f"{most}", "tick", "end")
    drawing.text(left - 6, base, "n", "tick", "end")
    return drawing.svg()


def alpha_shares(branches: Sequence[Branch], methods: Sequence[str]) -> Markup:
    """For each method which share of the questions got which coefficient."""
    left, right, bar, block = 6.0, 6.0, 18.0, 44.0
    height = len(methods) * block + 40
    drawing = Drawing(_WIDTH, height, "Share of the questions by coefficient alpha, in per cent")
    scale = _WIDTH - left - right
    for number, method in enumerate(methods):
        top = number * block
        drawing.text(left, top + 13, one_line(method, 50), "label")
        x = left
        for branch in (b for b in branches if b.method == method):
            width = branch.share * scale
            kind = (
                "alpha-none"
                if not branch.applied
                else "alpha-one"
                if branch.alpha == 1
                else "alpha-low"
                if branch.alpha < 1
                else "alpha-high"
            )
            name = f"alpha {branch.alpha:g}" if branch.applied else "not steered"
            share = f"{name}, {per_cent(branch.share, 0)} %"
            drawing.rect(x, top + 19, width, bar, f"share {kind}", f"{method}: {share}")
            if width > 7.0 * len(share):
                drawing.text(x + width / 2, top + 32, share, f"inside {kind}", "middle")
            x += width
    bottom = len(methods) * block + 2
    for tick in range(0, 101, 25):
        x = left + tick / 100 * scale
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        drawing.text(x, bottom + 12, f"{tick}", "tick", anchor)
    drawing.text(left + scale / 2, bottom + 30, "share of questions (%)", "axis", "middle")
    return drawing.svg()


def accuracy_against_alpha(series: Sequence[Sequence[AlphaPoint]]) -> Markup:
    """A curve for each series of constant coefficients; whiskers are 95 % intervals."""
    left, top, wide, tall = 46.0, 8.0, 340.0, 220.0
    drawing = Drawing(_WIDTH, top + tall + 46, "Accuracy in per cent against alpha")
    points = [point for of in series for point in of]
    low = 10 * math.floor(10 * min(p.low for p in points))
    high = 10 * math.ceil(10 * max(p.high for p in points))
    alphas = sorted({p.alpha for p in points})
    # Coefficients multiply, so equal factors get equal distances.
    logarithmic = alphas[0] > 0
    place = math.log if logarithmic else float
    first, last = place(alphas[0]), place(alphas[-1])

    def x_of(alpha: float) -> float:
        return left + 14 + (wide - 28) * (place(alpha) - first) / ((last - first) or 1)

    def y_of(accuracy: float) -> float:
        return top + tall * (high - 100 * accuracy) / ((high - low) or 1)

    step = 10 if high - low <= 60 else 20
    for tick in range(low, high + 1, step):
        y = y_of(tick / 100)
        drawing.line(left, y, left + wide, y, "grid")
        drawing.text(left - 6, y + 4, f"{tick}", "tick", "end")
    taken = -math.inf
    for alpha in alphas:
        x = x_of(alpha)
        if x - taken > 26:
            drawing.text(x, top + tall + 18, f"{alpha:g}", "tick", "middle")
            taken = x
    drawing.text(12, top + tall / 2, "accuracy (%)", "axis", "middle", turn=-90)
    scale = ", logarithmic" if logarithmic and len(alphas) > 2 else ""
    drawing.text(
        left + wide / 2,
        top + tall + 38,
        f"coefficient alpha{scale} (1: unsteered)",
        "axis",
        "middle",
    )
    for index, of in enumerate(series):
        ordered = sorted(of, key=lambda p: p.alpha)
        drawing.path([(x_of(p.alpha), y_of(p.accuracy)) for p in ordered], f"curve {colour(index)}")
        for p in ordered:
            x = x_of(p.alpha)
            drawing.line(x, y_of(p.low), x, y_of(p.high), f"whisker {colour(index)}")
            title = f"alpha = {p.alpha:g}: {per_cent(p.accuracy)} %"
            drawing.circle(x, y_of(p.accuracy), 3.5, f"dot {colour(index)}", title)
    return drawing.svg()
