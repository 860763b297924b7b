"""What the RoPE probe found, per layer and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptvis.diagnostics.clustered import ClusteredMean
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.diagnostics.wording import positions
from adaptvis.evaluation.statistics import FEWEST_IMAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SMALL_STEP", "RopeResult"]

_GOOD_PREDICTION = 0.9
"""The theory is said to hold from this coefficient of determination on."""

SMALL_STEP = 0.05
"""Positions at which the first-order theory is judged: 0.05 radians of the fastest coordinates."""


@dataclass(frozen=True, kw_only=True)
class RopeResult(Result):
    """Means over questions per layer and head, [L, H]; see
    :class:`adaptvis.diagnostics.rope.sensitivity.Sensitivity`.

    steps: by how many positions the image was moved.
    judged_steps: the small step at which the theory is judged; judged_change, judged_prediction:
        delta alpha_V and its prediction there.
    overall_change, overall_gradient: means of the absolute values over layers and heads, [].
    images: clusters behind the intervals.
    """

    instrument = "rope"
    title = "RoPE sensitivity of the attention on the image"
    source = (
        "Beyond Semantics (arXiv 2503.17349v2), RoPE sensitivity probe: delta alpha_V, delta g_V "
        "and the first-order theory alpha_V (1 - alpha_V) delta g_V"
    )

    steps: float
    questions: int
    images: int
    share: ClusteredMean
    change: ClusteredMean
    gradient: ClusteredMean
    predicted: ClusteredMean
    judged_steps: float
    judged_change: ClusteredMean
    judged_prediction: ClusteredMean
    overall_change: ClusteredMean
    overall_gradient: ClusteredMean

    @property
    def determination(self) -> float | None:
        """R squared of the prediction as it is, without a fit: 1 - sum (m - p)^2 / sum (m - mean)^2
        over layers and heads; None where all changes are equal.
        """
        return _determination(self.change, self.predicted)

    @property
    def judged_determination(self) -> float | None:
        """The same at the small step, where a theory of first order can be judged."""
        return _determination(self.judged_change, self.judged_prediction)

    def summary(self) -> dict[str, Any]:
        """Mean absolute changes, the most sensitive head, and how good the prediction is."""
        layer, head = np.unravel_index(
            int(np.abs(self.change.value).argmax()), self.change.value.shape
        )
        return {
            "positions moved": self.steps,
            "|delta alpha_V| (mean, low, high)": list(self.overall_change.estimate().values()),
            "|delta g_V| (mean, low, high)": list(self.overall_gradient.estimate().values()),
            "most sensitive": {
                "layer": int(layer),
                "head": int(head),
                "alpha_V": float(self.share.value[layer, head]),
                "delta alpha_V": float(self.change.value[layer, head]),
                "predicted": float(self.predicted.value[layer, head]),
            },
            f"R squared of the prediction at {self.steps:g}": self.determination,
            f"R squared of the prediction at {self.judged_steps:g}": self.judged_determination,
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer, head and quantity."""
        quantities = {
            "alpha_V": self.share,
            "delta alpha_V": self.change,
            "delta g_V": self.gradient,
            "predicted delta alpha_V": self.predicted,
            f"delta alpha_V at {self.judged_steps:g}": self.judged_change,
            f"predicted delta alpha_V at {self.judged_steps:g}": self.judged_prediction,
        }
        layers, heads = self.share.value.shape
        return [
            {
                "layer": layer,
                "head": head,
                "quantity": name,
                "questions": self.questions,
                **values.estimate((layer, head)),
            }
            for name, values in quantities.items()
            for layer in range(layers)
            for head in range(heads)
        ]

    def figure(self) -> Figure:
        """Heat maps of both quantities, and predicted against measured changes."""
        from adaptvis.diagnostics.rope.drawing import draw_rope

        return draw_rope(self)

    def reading(self) -> str:
        """What was measured and how to read the picture."""
        return (
            f"In {self.questions} prompts over {self.images} images, the keys of the image tokens "
            f"were turned by {positions(self.steps)} more, as if the image stood there, and "
            "nothing else; the last prompt token's attention was computed again. Left: delta "
            "alpha_V, how much the image's share of the attention changes, per layer and head. "
            "Middle: delta g_V, by how much the logits of the image tokens that the head looks at "
            "change per position. Values near 0 mean that a head hardly cares where the image "
            "tokens are said to be. Right: the first-order theory, alpha_V (1 - alpha_V) delta "
            "g_V, against what was measured, one point per head (on the line: the theory is "
            f"exact). It is of first order, and a whole position turns the fastest coordinates by "
            f"a radian, so it is judged at {self.judged_steps:g} positions, where R squared is "
            f"{_number(self.judged_determination)}. A head may have a large delta g_V and no delta "
            "alpha_V: its attention is saturated, all on the image or none." + _left_out(self)
        )

    def findings(self) -> list[Finding]:
        """Whether the first-order theory describes this model."""
        value = self.judged_determination
        holds = None
        if value is not None and self.images >= FEWEST_IMAGES:
            holds = value >= _GOOD_PREDICTION
        shown = ""
        if self.steps != self.judged_steps:
            shown = (
                f"; {_number(self.determination)} at {positions(self.steps)}, where a theory of "
                "first order is not judged"
            )
        return [
            Finding(
                "For small shifts, the change of the image's share follows alpha_V (1 - alpha_V) "
                "delta g_V (Beyond Semantics)",
                f"R squared {_number(value)} over {self.change.value.size} heads at "
                f"{positions(self.judged_steps)}, without a fit; said to hold from "
                f"{_GOOD_PREDICTION} on{shown}",
                holds,
            )
        ]


def _determination(change: ClusteredMean, prediction: ClusteredMean) -> float | None:
    measured, predicted = change.value.ravel(), prediction.value.ravel()
    spread = float(((measured - measured.mean()) ** 2).sum())
    if spread == 0:
        return None
    return 1 - float(((measured - predicted) ** 2).sum()) / spread


def _number(value: float | None) -> str:
    return "not known (all changes are equal)" if value is None else f"{value:.3f}"


def _left_out(result: RopeResult) -> str:
    count = result.settings.get("questions without an image", 0)
    return f" {count} question(s) without an image are left out." if count else ""
