"""What the attention instrument found: shares, entropy and balance per layer and head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from adaptvis.diagnostics.attention.parts import LAST_ROW
from adaptvis.diagnostics.clustered import ClusteredMean, Separation
from adaptvis.diagnostics.intervals import above
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.evaluation.statistics import FEWEST_IMAGES, Z_95

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MEASURES", "AttentionResult", "LayerOverlap", "RowMeans"]

MEASURES = {
    "entropy": "normalised entropy over image tokens",
    "system": "share of the system prompt",
    "text": "share of the user text",
    "image": "share of the image",
    "markup": "share of the template's markup",
    "cmb": "CMB: image / (image + user text)",
}
_FEWEST_ANSWERS = 10
"""With fewer right or wrong answers no AUROC is judged."""

_FAR_LESS = 0.5
"""The image gets far less attention than its tokens' part below this factor of that part."""

_CHANCE = 0.5
"""An AUROC above this tells right from wrong answers."""

_TELLS_APART = 0.7
"""One below this is nothing like the published .948: hardly more than chance."""


@dataclass(frozen=True)
class RowMeans:
    """Means over questions of one row under one steering.

    questions: those whose prompt has this row. heads: measure -> [L, H]; layers: [L], means over
    heads first; overall: [], means over layers and heads first.
    """

    steering: str
    row: str
    questions: int
    heads: Mapping[str, ClusteredMean]
    layers: Mapping[str, ClusteredMean]
    overall: Mapping[str, ClusteredMean]


@dataclass(frozen=True)
class LayerOverlap:
    """Attention of the last prompt row on the asked objects, as part of that on the image.

    right, wrong: means over rightly and wrongly answered questions, [L]. separation: per layer.
    """

    steering: str
    right: ClusteredMean
    wrong: ClusteredMean
    separation: tuple[Separation, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionResult(Result):
    """Where a model looks, per layer and head; the last prompt row and others.

    means: one entry per steering and row. tokens: part of the prompt -> mean part of its tokens.
    overlap: per steering; empty where the objects' places, or the answers, are not known.
    covered: mean part of the image's tokens that lies on asked objects.
    images: clusters behind the intervals.
    text_entropies: per question its id, its image and the unsteered entropy of the average text
        row, mean over layers and heads; for comparisons between models.
    """

    instrument = "attention"
    title = "Where the model looks: entropy, shares and overlap"
    source = (
        "Beyond Semantics (arXiv 2503.17349), section 7.2, table 4 and Cross-Modality Balance; "
        "AdaptVis (arXiv 2503.01773), analysis of attention shares and of attention on objects"
    )

    means: tuple[RowMeans, ...]
    tokens: Mapping[str, float]
    images: int
    overlap: tuple[LayerOverlap, ...] = ()
    covered: float | None = None
    text_entropies: tuple[tuple[str, str, float], ...] = ()

    def row(self, row: str = LAST_ROW, steering: str | None = None) -> RowMeans:
        """The means of one row; of the unsteered model by default.

        Raises:
            KeyError: there is no such row.
        """
        wanted = self.means[0].steering if steering is None else steering
        for means in self.means:
            if (means.steering, means.row) == (wanted, row):
                return means
        raise KeyError(f"no row {row!r} under {wanted!r}")

    @property
    def steerings(self) -> tuple[str, ...]:
        """The unsteered model first."""
        return tuple(dict.fromkeys(means.steering for means in self.means))

    def summary(self) -> dict[str, Any]:
        """Means over layers and heads, part of the tokens, and the best AUROC."""
        found: dict[str, Any] = {"part of the tokens": dict(self.tokens)}
        for means in self.means:
            name = f"{means.row}, {means.steering}"
            found[name] = {
                f"{measure} (mean, low, high)": list(means.overall[measure].estimate().values())
                for measure in MEASURES
            }
        for overlap in self.overlap:
            best = _best(overlap)
            if best is not None:
                layer, separation = best
                found[f"attention on asked objects, {overlap.steering}"] = {
                    "right answers": separation.right,
                    "wrong answers": separation.wrong,
                    "objects' part of the image": self.covered,
                    "best layer": layer,
                    "AUROC": separation.value,
                    "95 %": [separation.low, separation.high],
                }
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per steering, prompt row, measure, layer and head; head None is their mean."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for means in self.means:
            same = {"steering": means.steering, "row": means.row, "questions": means.questions}
            for measure in MEASURES:
                of_heads = means.heads[measure]
                for layer in range(len(of_heads.value)):
                    yield {
                        **same,
                        "measure": measure,
                        "layer": layer,
                        "head": None,
                        **means.layers[measure].estimate(layer),
                    }
                    for head in range(of_heads.value.shape[1]):
                        yield {
                            **same,
                            "measure": measure,
                            "layer": layer,
                            "head": head,
                            **of_heads.estimate((layer, head)),
                        }
        for overlap in self.overlap:
            for layer, separation in enumerate(overlap.separation):
                same = {"steering": overlap.steering, "row": LAST_ROW, "layer": layer, "head": None}
                yield {
                    **same,
                    "measure": "AUROC of attention on asked objects",
                    "questions": separation.right + separation.wrong,
                    "value": separation.value,
                    "low": separation.low,
                    "high": separation.high,
                }
                for kind, count, mean in (
                    ("right", separation.right, overlap.right),
                    ("wrong", separation.wrong, overlap.wrong),
                ):
                    yield {
                        **same,
                        "measure": f"attention on asked objects, {kind} answers",
                        "questions": count,
                        **mean.estimate(layer),
                    }

    def figure(self) -> Figure:
        """Heat maps of entropy and CMB, shares and entropy per layer, and AUROC where known."""
        from adaptvis.diagnostics.attention.drawing import draw_attention

        return draw_attention(self)

    def reading(self) -> str:
        """What was measured and how to read the picture."""
        last = self.row()
        text = (
            f"Attention weights of {last.questions} prompts over {self.images} images, of the last "
            "prompt token (from which the first answer token is read) and of the average text row "
            "behind the image. Top: per layer and head, the entropy of the attention on the image "
            "over the logarithm of the number of image tokens (1: spread evenly, 0: one token), "
            "and CMB, the image's part of the attention on image and user text (.5: balanced; the "
            "system prompt and markup are left out). Below: how each layer shares its attention "
            "out, next to which part of the prompt's tokens each part is (markup: names of roles, "
            "marks around images, the assistant's cue); and the entropy per layer. Intervals are "
            "95 %, clustered by image."
        )
        if self.overlap:
            text += (
                " Bottom: the part of the attention on the image that falls on the objects the "
                "question is about, for right and wrong answers, and its AUROC: the chance that a "
                "rightly answered question has more of it than a wrongly answered one (.5: it "
                "tells nothing). A dotted line marks the objects' part of the image."
            )
        if without := self.settings.get("questions without an image", 0):
            text += f" {without} question(s) without an image are left out."
        if len(self.steerings) > 1:
            text += f" Under {self.steerings[1]}, the same is shown beside it."
        return text

    def findings(self) -> list[Finding]:
        """Shares against tokens, the system prompt, and attention on objects against answers."""
        findings = [self._image_share(), self._system_share()]
        if self.overlap:
            findings.append(self._objects())
        return findings

    def _image_share(self) -> Finding:
        share = self.row().overall["image"].estimate()
        tokens = self.tokens["image"]
        holds = None
        if self.images >= FEWEST_IMAGES and share["high"] is not None and share["low"] is not None:
            line = _FAR_LESS * tokens
            holds = True if share["high"] < line else False if share["low"] > line else None
        return Finding(
            "Image tokens get far less attention than their number (about 10 % of attention for "
            "90 % of the tokens; AdaptVis)",
            f"the image is {_percent(tokens)} of the tokens and gets {_interval(share)} of the "
            f"last prompt token's attention; far less is below {_percent(_FAR_LESS * tokens)}",
            holds,
        )

    def _system_share(self) -> Finding:
        share = self.row().overall["system"].estimate()
        known = share["high"] is not None and share["low"] is not None
        holds = None
        # Without a system prompt there is nothing that could take the attention.
        if self.images >= FEWEST_IMAGES and known and self.tokens["system"] > 0:
            low, high = share["low"] or 0.0, share["high"] or 0.0
            holds = above(0.5, low, high)
        return Finding(
            "Most attention goes to the system prompt (72.1 % in LLaVA-1.5; Beyond Semantics)",
            f"{_interval(share)} goes to the system prompt and the beginning of sequence, "
            f"{_percent(self.tokens['system'])} of the tokens",
            holds,
        )

    def _objects(self) -> Finding:
        claim = (
            "In some layer, attention on the asked objects tells right from wrong answers (AUROC "
            ".948 in layer 17 of LLaVA-1.5 on Controlled_A; AdaptVis)"
        )
        overlap = self.overlap[0]
        best = _best(overlap)
        if best is None:
            count = overlap.separation[0]
            return Finding(
                claim, f"{count.right} right and {count.wrong} wrong answers: no AUROC", None
            )
        layer, separation = best
        enough = min(separation.right, separation.wrong) >= _FEWEST_ANSWERS
        # The best of L layers is taken, so each is judged at 95 % of all L together (Bonferroni).
        wider = NormalDist().inv_cdf(1 - 0.025 / len(overlap.separation)) / Z_95
        known = [s for s in overlap.separation if s.value is not None]
        tells = any((s.value or 0.0) - wider * s.half > _CHANCE for s in known)
        fails = all((s.value or 0.0) + wider * s.half < _TELLS_APART for s in known)
        finite = math.isfinite(separation.half)
        interval = f"[{separation.low:.3f}, {separation.high:.3f}]" if finite else "(no interval)"
        judged = f"holds above {_CHANCE:g}, does not below {_TELLS_APART:g} in every layer"
        if tells and fails:
            judged = f"more than chance, and less than {_TELLS_APART:g} in every layer"
        return Finding(
            claim,
            f"best in layer {layer} (counted from 0): AUROC {separation.value:.3f} {interval}, "
            f"{separation.right} right and {separation.wrong} wrong answers; {judged}",
            tells if tells != fails and enough and self.images >= FEWEST_IMAGES else None,
        )


def _best(overlap: LayerOverlap) -> tuple[int, Separation] | None:
    known = [(layer, s) for layer, s in enumerate(overlap.separation) if s.value is not None]
    return max(known, key=lambda found: found[1].value or 0.0) if known else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(estimate: Mapping[str, float | None]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "an unknown part"
    if low is None or high is None:
        return _percent(value)
    return f"{_percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"
