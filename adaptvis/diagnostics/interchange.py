"""Where the order of things is: last-token interchange, token swaps and vision-side ablation.

Source: The Dual Mechanisms of Spatial Reasoning in Vision-Language Models, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from adaptvis.config import SteeringConfig
from adaptvis.data.three_objects import Item, Kind, Pair, draw_pairs
from adaptvis.data.three_objects.items import Wording
from adaptvis.diagnostics.interventions import REGIONS, ablated, interchanged, swapped
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.diagnostics.share import Share
from adaptvis.diagnostics.three_object_questions import Questions
from adaptvis.errors import ConfigError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.patch import steer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ROLES", "InterchangeResult", "best_layer", "measure_interchange"]

ROLES = ("clean answer", "clean other end", "counterfactual answer", "counterfactual other end")
"""The candidates of a pair, see :attr:`adaptvis.data.three_objects.Pair.candidates`."""


@dataclass(frozen=True, kw_only=True)
class InterchangeResult(Result):
    """Probabilities after an interchange, and how often a swap flips an answer.

    last_token: mean probability of each of :data:`ROLES` per slot, [slots][4].
    clean: of the clean questions, [4]. winners: per slot, pairs whose likeliest name is the role.
    flips: of the questions answered rightly, how many give the opposite end, per region and layer.
    flipped: the same question by question, [layers][right questions].
    lost: of the questions answered rightly, how many are not when ablated.
    chance: accuracy by guessing among the things that the question leaves open.
    kept: how many still give the right answer, likewise.
    by_axis: flips of things in a row and of things in a column, by axis, region and layer.
    accuracy, ablation: clean questions answered rightly, with the encoder's tokens and ablated.
    """

    instrument: ClassVar[str] = "interchange"
    title: ClassVar[str] = "Interchange interventions"
    source: ClassVar[str] = "The Dual Mechanisms of Spatial Reasoning in VLMs, sections 4 and 5"

    last_token: list[list[float]]
    clean: list[float]
    winners: list[list[int]]
    flips: dict[str, list[Share]]
    kept: dict[str, list[Share]]
    by_axis: dict[str, dict[str, list[Share]]]
    flipped: dict[str, list[list[bool]]]
    lost: Share
    chance: float
    accuracy: Share
    ablation: Share

    def summary(self) -> dict[str, Any]:
        return {
            "pairs": self.settings.get("pairs"),
            "clean_accuracy": self.accuracy.to_dict(),
            "ablated_accuracy": self.ablation.to_dict(),
            "right_answers_lost_when_ablated": self.lost.to_dict(),
            "chance": self.chance,
            "flipped_at_the_input": {r: shares[0].to_dict() for r, shares in self.flips.items()},
            "flipped_at_most": {
                r: {"layer": (best := best_layer(shares)), **shares[best].to_dict()}
                for r, shares in self.flips.items()
            },
            "last_token_by_slot": {
                role: [row[i] for row in self.last_token] for i, role in enumerate(ROLES)
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        empty = dict.fromkeys(("region", "role", "mean_probability", "count", "of", "low", "high"))
        rows: list[dict[str, Any]] = []
        for slot, (means, wins) in enumerate(zip(self.last_token, self.winners, strict=True)):
            for role, mean, won in zip(ROLES, means, wins, strict=True):
                share = Share(won, self.accuracy.total)
                rows.append(
                    {
                        **empty,
                        "part": "last token",
                        "slot": slot,
                        "role": role,
                        "mean_probability": mean,
                        **_counts(share),
                    }
                )
        for name, table in (("flipped", self.flips), ("kept", self.kept)):
            for region, shares in table.items():
                for layer, share in enumerate(shares):
                    rows.append(
                        {**empty, "part": name, "slot": layer, "region": region, **_counts(share)}
                    )
        for axis, tables in self.by_axis.items():
            for region, shares in tables.items():
                for layer, share in enumerate(shares):
                    part = f"flipped, {axis}"
                    rows.append(
                        {**empty, "part": part, "slot": layer, "region": region, **_counts(share)}
                    )
        rows.append({**empty, "part": "ablated", "slot": 0, **_counts(self.ablation)})
        rows.append({**empty, "part": "clean", "slot": 0, **_counts(self.accuracy)})
        return rows

    def figure(self) -> Figure:
        from adaptvis.diagnostics.interchange_figure import draw

        return draw(self)

    def reading(self) -> str:
        kind = self.settings.get("kind", "squares")
        return (
            f"{self.accuracy.total} questions about three {kind} in a row or a column, on the "
            "model's own grid of image tokens; an answer is the name with the largest summed "
            f"probability of its spellings. The model answers {self.accuracy} rightly. Top: the "
            "last prompt token's state is replaced by that of a counterfactual question (other "
            "ends, opposite direction) behind one layer at a time. Where the line 'clean other "
            "end' is high, the last token carries which end is asked for and looks its name up "
            "later; where 'counterfactual answer' is high, it already carries the name. Second: "
            "image tokens are exchanged crosswise with those of the mirrored scene as they enter "
            "a layer, so that every place keeps its thing and only what the vision encoder wrote "
            "about places moves. The bars are answers that flip to the opposite end, of those "
            "that were right, with 95 % intervals: the objects' own tokens, the other tokens of "
            "the two strips (whole columns or rows around the objects), or the strips whole. "
            "Third: the same for things in a row and in a column apart. Bottom: the accuracy "
            "that remains when the language model gets each thing's tokens from a picture of it "
            f"alone in the middle, on an empty ground ({self.ablation}), beside the model as it is."
        )

    def findings(self) -> list[Finding]:
        from adaptvis.diagnostics.interchange_findings import findings_of

        return findings_of(self)


def measure_interchange(
    engine: HFEngine,
    *,
    kind: Kind = "squares",
    pairs: int = 50,
    wording: Wording | None = None,
    config: SteeringConfig | None = None,
    batch_size: int = 50,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> InterchangeResult:
    """Run the three interventions on pairs of questions about three things.

    Args:
        wording: "published" with its system prompt, or "short"; default the published one where
            the tokenizer knows its words.
        config: steers the model meanwhile.
        batch_size: pairs at once; bounds the memory, which holds the image tokens of every layer
            of so many questions.

    Raises:
        ConfigError: a number below 1. DataError: the model spells fewer than five names.
        UnsupportedError: see :func:`adaptvis.diagnostics.three_object_questions.layout_of`.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size must be at least 1 pair, got {batch_size}")
    questions = Questions.for_model(engine, kind, wording)
    drawn = draw_pairs(kind, pairs, seed=seed, names=questions.names)
    parts = []
    with steer(engine.model, config, processor=engine.processor):
        for start in range(0, len(drawn), batch_size):
            progress("interchange", start, len(drawn))
            parts.append(_Part.of(questions, drawn[start : start + batch_size]))
        progress("interchange", len(drawn), len(drawn))
    slots = torch.cat([part.patched for part in parts], dim=1)
    clean = torch.cat([part.clean for part in parts])
    candidates = torch.tensor([[questions.index(n) for n in p.candidates] for p in drawn])
    role = _role(slots, candidates)
    right = _role(clean[None], candidates)[0] == 0
    outcome = {
        region: _role(torch.cat([p.swaps[region] for p in parts], dim=1), candidates)
        for region in REGIONS
    }
    number = int(right.sum())
    flipped = {region: (roles[:, right] == 1) for region, roles in outcome.items()}
    axes = {
        axis: right & torch.tensor([pair.clean.axis == axis for pair in drawn])
        for axis in ("horizontal", "vertical")
    }
    without = _role(torch.cat([part.ablated for part in parts])[None], candidates)[0] == 0
    layout = questions.layout
    return InterchangeResult(
        engine=engine.describe(),
        settings={
            **(settings or {}),
            "kind": kind,
            "pairs": len(drawn),
            "seed": seed,
            "wording": questions.wording,
            "prompt": drawn[0].clean.prompt(questions.wording),
            "steering": None if config is None else config.to_dict(),
            "names": list(questions.names),
            "grid": layout.grid,
            "object_tokens": layout.size,
            "spacing_tokens": layout.spacing,
            "strip_tokens": layout.strips("horizontal")[0].right,
        },
        last_token=slots.gather(2, candidates.expand(len(slots), -1, -1)).mean(dim=1).tolist(),
        clean=clean.gather(1, candidates).mean(dim=0).tolist(),
        winners=[[int((row == i).sum()) for i in range(len(ROLES))] for row in role],
        flips={r: [Share(int(x.sum()), number) for x in flipped[r]] for r in REGIONS},
        flipped={r: flipped[r].tolist() for r in REGIONS},
        lost=Share(int((right & ~without).sum()), number),
        # The published question names the middle thing, which leaves two.
        chance=1 / 2 if questions.wording == "published" else 1 / 3,
        kept={r: [Share(int((x[right] == 0).sum()), number) for x in outcome[r]] for r in REGIONS},
        by_axis={
            axis: {
                r: [Share(int((x[of] == 1).sum()), int(of.sum())) for x in outcome[r]]
                for r in REGIONS
            }
            for axis, of in axes.items()
        },
        accuracy=Share(number, len(drawn)),
        ablation=Share(int(without.sum()), len(drawn)),
    )


@dataclass(frozen=True)
class _Part:
    """What a batch of pairs gave."""

    patched: Tensor
    clean: Tensor
    swaps: dict[str, Tensor]
    ablated: Tensor

    @classmethod
    def of(cls, questions: Questions, pairs: Sequence[Pair]) -> _Part:
        items: list[Item] = [pair.clean for pair in pairs]
        patched, clean = interchanged(questions, pairs)
        return cls(patched, clean, swapped(questions, items), ablated(questions, items))


def _role(probabilities: Tensor, candidates: Tensor) -> Tensor:
    """Which role the likeliest name has: int64 [X, pairs], -1 for any other name.

    Args:
        probabilities: [X, pairs, names]. candidates: [pairs, 4].
    """
    best = probabilities.argmax(dim=-1)
    role = torch.full_like(best, -1)
    for index in range(candidates.shape[1]):
        role[best == candidates[:, index]] = index
    return role


def best_layer(shares: Sequence[Share]) -> int:
    """The layer with the most flips, the first of several."""
    return max(range(len(shares)), key=lambda layer: shares[layer].count)


def _counts(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"count": share.count, "of": share.total, "low": low, "high": high}
