"""What amplification does to answers, beside random directions of the same norms.

Source: The Dual Mechanisms of Spatial Reasoning in Vision-Language Models, section 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adaptvis.config import Amplify
from adaptvis.diagnostics.choice import chance
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.engine import Engine
from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation.asking import Asker, Request
from adaptvis.evaluation.statistics import FEWEST_IMAGES, Gain, clustered_interval, paired_gain
from adaptvis.steering.amplification import AMPLIFICATION_ALPHAS
from adaptvis.steering.directions import control_directions
from adaptvis.tasks import Sample, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PROBE", "AmplificationResult", "Curve", "measure_amplification"]

PROBE = "probe"
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Strict accuracy of one set of directions.

    directions: "probe", or "random SEED". points: [alphas, items], the first alpha being 0; an item
        is one question, or several that must all be right.
    """

    directions: str
    points: Points

    @property
    def corrected(self) -> Points:
        """For each item that is wrong at alpha 0, whether some alpha corrects it (an oracle)."""
        wrong = self.points[0] == 0
        return np.asarray(self.points[1:, wrong].max(axis=0), dtype=float)

    @property
    def broken(self) -> Points:
        """For each item that is right at alpha 0, the share of alphas that break it."""
        right = self.points[0] == 1
        return np.asarray(1 - self.points[1:, right].mean(axis=0), dtype=float)


@dataclass(frozen=True)
class AmplificationResult(Result):
    """Accuracy against alpha.

    alphas: the first is 0, the model as it is. curves: the probe's directions, then the controls.
    images: the picture of each item.
    chance: strict accuracy by guessing; None where it is not known.
    """

    instrument: ClassVar[str] = "amplification"
    title: ClassVar[str] = "Amplification of place directions"
    source: ClassVar[str] = "The Dual Mechanisms of Spatial Reasoning in VLMs, section 5.4"

    alphas: tuple[float, ...] = ()
    curves: tuple[Curve, ...] = ()
    images: tuple[str, ...] = ()
    chance: float | None = None

    def accuracy(self, curve: Curve, index: int) -> tuple[float, float, float]:
        """Accuracy at one alpha with its 95 % interval, clustered by picture."""
        points = curve.points[index]
        low, high = clustered_interval(points.tolist(), list(self.images))
        return float(points.mean()), low, high

    def corrected_gain(self) -> Gain | None:
        """Failures that an oracle alpha corrects: the probe's over the mean of the controls."""
        probe, *controls = self.curves
        wrong = probe.points[0] == 0
        if not wrong.any() or not controls:
            return None
        reference = np.mean([curve.corrected for curve in controls], axis=0)
        return paired_gain(probe.corrected, reference, np.array(self.images)[wrong].tolist())

    def fixed_gain(self, curve: Curve) -> Gain:
        """What one alpha for all items gains over none, chosen on other pictures than measured on.

        Pictures are halved; the alpha of each half is the best one of the other half, 0 among them.
        """
        names, index = np.unique(np.array(self.images), return_inverse=True)
        half = np.random.default_rng(0).permutation(len(names)) % 2
        side = half[index]
        treated = np.empty(len(side))
        for own in (0, 1):
            best = int(curve.points[:, side != own].mean(axis=1).argmax()) if len(names) > 1 else 0
            treated[side == own] = curve.points[best, side == own]
        return paired_gain(treated, curve.points[0], list(self.images))

    def summary(self) -> dict[str, Any]:
        probe, *controls = self.curves
        best = int(probe.points.mean(axis=1).argmax())
        gain = self.fixed_gain(probe)
        return {
            "items": len(self.images),
            "chance": self.chance,
            "accuracy_without": self.accuracy(probe, 0)[0],
            "failures": int((probe.points[0] == 0).sum()),
            "best_alpha_on_these_items": self.alphas[best],
            "accuracy_there": self.accuracy(probe, best)[0],
            "gain_of_one_alpha": gain.mean,
            "gain_interval": [gain.low, gain.high],
            "failures_corrected_by_some_alpha": {
                curve.directions: float(curve.corrected.mean()) if len(curve.corrected) else None
                for curve in self.curves
            },
            "right_answers_broken_on_average": {
                curve.directions: float(curve.broken.mean()) if len(curve.broken) else None
                for curve in self.curves
            },
            "controls": len(controls),
        }

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for curve in self.curves:
            for index, alpha in enumerate(self.alphas):
                value, low, high = self.accuracy(curve, index)
                rows.append(
                    {
                        "directions": curve.directions,
                        "alpha": alpha,
                        "accuracy": value,
                        "low": low,
                        "high": high,
                        "items": len(self.images),
                    }
                )
        return rows

    def figure(self) -> Figure:
        from adaptvis.diagnostics.amplification_figure import draw

        return draw(self)

    def reading(self) -> str:
        joined = self.settings.get("questions_per_item", 1)
        scoring = (
            f"An item is {joined} questions that must all be answered rightly, so that a constant "
            "answer earns nothing. "
            if joined > 1
            else "An item is one question under strict scoring. "
        )
        return (
            f"{len(self.images)} items of {self.settings.get('task', 'a task')}. {scoring}At the "
            "language model's input each image token's component along the probe directions is "
            "multiplied by 1 + alpha (axes together), in the prefill only. The shaded bands are "
            "95 % intervals over pictures. Dashed lines are random directions of the same number "
            "and norms: only what the solid line has above them is due to the places that the "
            "probes read. The best alpha of this curve was chosen on the items that it is "
            "measured on; the gain in the summary is of an alpha that was chosen on other pictures."
        )

    def findings(self) -> list[Finding]:
        probe = self.curves[0]
        failures = int((probe.points[0] == 0).sum())
        corrected = self.corrected_gain()
        shares = {c.directions: c.corrected.mean() for c in self.curves if len(c.corrected)}
        if corrected is None:
            first = "Nothing was wrong without amplification" if not failures else "No control"
        else:
            random = np.mean([v for name, v in shares.items() if name != PROBE])
            first = (
                f"Of {failures} failures some alpha corrects {100 * shares[PROBE]:.0f} % with "
                f"probe directions and {100 * random:.0f} % with random ones (difference "
                f"{_points(corrected)})"
            )
        fixed = self.fixed_gain(probe)
        return [
            Finding(
                "Amplifying place directions corrects more failures than random directions do",
                first,
                _decided(corrected),
            ),
            Finding(
                "One alpha for all questions raises accuracy",
                f"Chosen on other pictures it changes accuracy by {_points(fixed)}",
                _decided(fixed),
            ),
        ]


def measure_amplification(
    engine: Engine,
    directions: str | Path,
    task: Task,
    samples: Sequence[Sample],
    *,
    items: Sequence[str] | None = None,
    alphas: Sequence[float] = AMPLIFICATION_ALPHAS,
    controls: int = 3,
    axes: tuple[str, ...] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> AmplificationResult:
    """Answer questions under every alpha, with the probe's directions and with random ones.

    Args:
        directions: a file that ``measure_probes`` wrote; the controls' files are written beside it.
        items: for each sample the item that it belongs to; all samples of an item must be answered
            rightly. Each sample is an item of its own where None.
        alphas: above 0; 0, the model as it is, is always measured.
        controls: how many sets of random directions, with seeds from ``seed`` on.

    Raises:
        ConfigError: a wrong alpha, or directions that do not fit the model.
        DataError: no samples, or a question that cannot be asked.
    """
    if not samples:
        raise DataError("There are no questions to answer under amplification; raise the limit")
    if controls < 0 or not alphas:
        raise ConfigError("Amplification needs one alpha or more, and 0 or more controls")
    ladder = tuple(sorted(set(alphas)))
    files = {PROBE: Path(directions)}
    files |= {
        f"random {number}": control_directions(directions, number)
        for number in range(seed, seed + controls)
    }
    configs = [
        Amplify(directions=str(path), alpha=alpha, axes=axes)
        for path in files.values()
        for alpha in ladder
    ]
    request = Request((None, *configs), task.max_new_tokens)
    points: list[list[float]] = []
    for outcomes in Asker(engine, batch_size).ask(samples, request):
        progress("amplification", len(points), len(samples))
        for outcome in outcomes:
            sample = samples[len(points)]
            if outcome.error:
                raise DataError(f"Question {sample.id!r} cannot be asked: {outcome.error}")
            points.append([float(task.grade(sample, a.text).strict) for a in outcome.answers])
    progress("amplification", len(samples), len(samples))
    table, names, images = _by_item(np.array(points).T, samples, items)
    curves = []
    for number, name in enumerate(files):
        own = table[1 + number * len(ladder) : 1 + (number + 1) * len(ladder)]
        curves.append(Curve(name, np.concatenate([table[:1], own])))
    return AmplificationResult(
        engine=engine.describe(),
        settings={
            "task": task.name,
            **(settings or {}),
            "questions": len(samples),
            "items": len(names),
            "questions_per_item": len(samples) // len(names),
            "directions": Path(directions).name,
            "sha256": configs[0].sha256,
            "axes": list(axes) if axes else "all",
            "control_seeds": list(range(seed, seed + controls)),
        },
        alphas=(0.0, *ladder),
        curves=tuple(curves),
        images=images,
        chance=chance(samples, items),
    )


def _by_item(
    points: Points, samples: Sequence[Sample], items: Sequence[str] | None
) -> tuple[Points, list[str], tuple[str, ...]]:
    """Points [configurations, items], the items' names, and the picture of each."""
    own = [sample.id for sample in samples] if items is None else list(items)
    names = list(dict.fromkeys(own))
    index = np.array([names.index(name) for name in own])
    table = np.stack([points[:, index == place].min(axis=1) for place in range(len(names))], axis=1)
    picture = {name: sample.image_id for name, sample in zip(own, samples, strict=True)}
    return table, names, tuple(picture[name] for name in names)


def _decided(gain: Gain | None) -> bool | None:
    if gain is None or gain.images < FEWEST_IMAGES:
        return None
    if gain.low > 0:
        return True
    return False if gain.high <= 0 else None


def _points(gain: Gain) -> str:
    return (
        f"{100 * gain.mean:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, "
        f"{gain.images} pictures)"
    )
