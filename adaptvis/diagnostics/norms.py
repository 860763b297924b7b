"""How long image and text tokens are: at the language model's input, and in every layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.accuracy import at_most
from adaptvis.diagnostics.drawing import COLOURS, new_figure, plain_numbers
from adaptvis.diagnostics.hooks import decoder_layers
from adaptvis.diagnostics.intervals import Estimate, ratio_estimate
from adaptvis.diagnostics.prefill import Progress, batches, prefill, silent, watched
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.errors import DataError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.norms import text_embedding_norms
from adaptvis.tasks import Sample

__all__ = ["IMAGE", "LAST", "TABLE", "TEXT", "LayerNorms", "NormsResult", "measure_norms"]

IMAGE, TEXT, TABLE, LAST = "image tokens", "prompt text", "embedding table", "last prompt token"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STEP = math.log(1.01)
# Section 4.1: "1-2 orders of magnitudes greater".
_GAP = 10.0


@dataclass(frozen=True)
class LayerNorms:
    """L2 norms of the hidden states that leave a layer; layer 0 is what enters the first one.

    group: image tokens, prompt text or last prompt token (which is text, too).
    low, high: 5 % and 95 % quantiles, to within 1 % of their value.
    """

    layer: int
    group: str
    tokens: int
    mean: float
    standard_deviation: float
    smallest: float
    largest: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class NormsResult(Result):
    """Norms at the language model's input, and per layer.

    inputs: L2 norms, float32 [tokens], of image tokens, prompt text and the embedding table.
    ratio: mean norm of image tokens over that of the embedding table, interval over images.
    """

    instrument = "norms"
    title = "Norms of image and text tokens"
    source = "Beyond Semantics, section 4.1 and figure 3"

    inputs: dict[str, NDArray[np.float32]]
    ratio: Estimate
    layers: list[LayerNorms]

    def summary(self) -> dict[str, Any]:
        """Means, ranges and quantiles per group, and the ratio of means."""
        described = {group: _described(norms) for group, norms in self.inputs.items()}
        return {"ratio of means, image over table": self.ratio, **described}

    def rows(self) -> list[dict[str, Any]]:
        """One row per group at the input (layer -1) with quantiles, and per layer and group."""
        inputs = [
            {"layer": -1, "group": group, "tokens": len(norms), **_described(norms)}
            for group, norms in self.inputs.items()
        ]
        layers = [
            {
                "layer": row.layer,
                "group": row.group,
                "tokens": row.tokens,
                "mean": row.mean,
                "standard_deviation": row.standard_deviation,
                "smallest": row.smallest,
                "largest": row.largest,
                "quantile_0.05": row.low,
                "quantile_0.95": row.high,
            }
            for row in self.layers
        ]
        names = dict.fromkeys(name for row in [*inputs, *layers] for name in row)
        return [{name: row.get(name) for name in names} for row in [*inputs, *layers]]

    def figure(self) -> Any:
        """Left: histograms on a logarithmic axis. Right: mean norms by layer."""
        figure, (left, right) = new_figure(1, 2)
        shown = {g: n[n > 0] for g, n in self.inputs.items() if (n > 0).any()}
        smallest = min(float(n.min()) for n in shown.values())
        largest = max(float(n.max()) for n in shown.values())
        edges = np.geomspace(smallest * 0.9, largest * 1.1, 60)
        styles = ("-", "--", ":")
        for (group, norms), style in zip(shown.items(), styles, strict=False):
            counts, _ = np.histogram(norms, edges)
            left.stairs(
                counts / counts.sum(),
                edges,
                label=f"{group} (mean {norms.mean():.3g})",
                color=COLOURS[group],
                linestyle=style,
                linewidth=2,
                fill=False,
            )
        left.set_xscale("log")
        plain_numbers(left.xaxis)
        left.set_xlabel("L2 norm at the language model's input")
        left.set_ylabel("share of tokens")
        left.legend(frameon=False, loc="upper left", fontsize=8)
        left.margins(y=0.35)
        for group, marker, shift in ((IMAGE, "o", -0.06), (TEXT, "s", 0.0), (LAST, "^", 0.06)):
            points = [row for row in self.layers if row.group == group]
            right.errorbar(
                [row.layer + shift for row in points],
                [row.mean for row in points],
                yerr=[
                    [max(row.mean - row.low, 0.0) for row in points],
                    [max(row.high - row.mean, 0.0) for row in points],
                ],
                label=group,
                marker=marker,
                color=COLOURS[group],
                capsize=3,
            )
        right.set_yscale("log")
        plain_numbers(right.yaxis)
        right.set_xlabel("after decoder layer (0: the input)")
        right.set_ylabel("mean L2 norm, 5 to 95 % of tokens")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.legend(frameon=False, fontsize=8)
        return figure

    def reading(self) -> str:
        """What was measured and how to read the picture."""
        image, table = self.inputs[IMAGE], self.inputs[TABLE]
        return (
            f"L2 norms of the {len(image)} image tokens of {self.settings.get('images', '?')} "
            f"images as they enter the language model, behind the projector, against the text "
            f"tokens of the same prompts and all {len(table)} rows of the embedding table. Left: "
            "how they are distributed, on a logarithmic axis; curves that lie apart mean that one "
            "kind of token is longer than the other. Right: the mean norm of the hidden states "
            "after each decoder layer, and the 5 % and 95 % quantiles of their tokens; the last "
            "prompt token is the one that the answer is read from. Large norms upstream make what "
            "attention adds later, positions among it, a small part of the residual stream."
        )

    def findings(self) -> list[Finding]:
        """The norm gap."""
        low, high = self.ratio["low"], self.ratio["high"]
        shorter = at_most(_GAP, low, high, int(self.ratio["images"] or 0))
        image, table = self.inputs[IMAGE], self.inputs[TABLE]
        interval = "" if low is None else f" (95 % interval {low:.3g} to {high:.3g})"
        return [
            Finding(
                "Image tokens are one to two orders of magnitude longer than text tokens: norms "
                "of 10 to 1000 against 0.3 to 1 (section 4.1; in section 5.2 text has mean 0.83, "
                "largest 1.22)",
                f"image tokens {image.min():.3g} to {image.max():.3g}, mean {image.mean():.3g}; "
                f"embedding table {table.min():.3g} to {table.max():.3g}, mean "
                f"{table.mean():.3g}; ratio of means {self.ratio['value']:.3g}{interval}",
                None if shorter is None else not shorter,
            )
        ]


def measure_norms(
    engine: HFEngine,
    samples: Sequence[Sample],
    *,
    config: SteeringConfig | None = None,
    batch_size: int = 1,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> NormsResult:
    """Norms at the language model's input and after every decoder layer.

    Of hidden states only sums, extremes and one batch's norms are kept; of inputs one number per
    token.

    Args:
        config: steering under which the model is looked at; NormRescale changes the input.

    Raises:
        DataError: no question has an image.
    """
    layers = decoder_layers(engine)
    sums = {(d, g): _Sums() for d in range(len(layers) + 1) for g in (IMAGE, TEXT, LAST)}
    inputs: dict[str, list[Tensor]] = {IMAGE: [], TEXT: []}
    image_means: list[float] = []
    placeholder = engine.family.placeholder_of(engine.model.config)
    done = 0
    for batch in batches(samples, batch_size):
        encoded = engine.encode([sample.query() for sample in batch])
        ids = encoded["input_ids"]
        image = ids == placeholder
        text = encoded["attention_mask"].bool() & ~image
        norms = torch.zeros((len(layers) + 1, *ids.shape), device=ids.device)
        with (
            _entering(engine, lambda hidden: _write(norms[0], hidden)),  # noqa: B023
            watched(layers, lambda d, hidden: _write(norms[d + 1], hidden)),  # noqa: B023
        ):
            prefill(engine, encoded, config)
        inputs[IMAGE].append(norms[0][image].cpu())
        inputs[TEXT].append(norms[0][text].cpu())
        for row, mask in zip(norms[0], image, strict=True):
            image_means.append(float(row[mask].mean()) if bool(mask.any()) else float("nan"))
        last = torch.zeros_like(image)
        last[:, -1] = True
        for depth in range(len(layers) + 1):
            for group, mask in ((IMAGE, image), (TEXT, text), (LAST, last)):
                sums[depth, group].add(norms[depth][mask])
        done += len(batch)
        progress("norms", done, len(samples))
    seen = [index for index, mean in enumerate(image_means) if mean == mean]
    if not seen:
        raise DataError("None of these questions has an image; give a task with images")
    table = text_embedding_norms(engine.model.get_input_embeddings()).cpu()
    table_mean = float(table.mean())
    return NormsResult(
        engine=engine.describe(),
        settings=settings or {},
        inputs={
            IMAGE: torch.cat(inputs[IMAGE]).numpy(),
            TEXT: torch.cat(inputs[TEXT]).numpy(),
            TABLE: table.numpy(),
        },
        ratio=ratio_estimate(
            [image_means[index] for index in seen],
            [table_mean] * len(seen),
            [samples[index].image_id for index in seen],
            seed=seed,
        ),
        layers=[sums[key].finished(*key) for key in sums if sums[key].count],
    )


@contextmanager
def _entering(engine: HFEngine, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside the block, ``see`` gets the decoder's input embeddings [B, N, D]."""

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(kwargs["inputs_embeds"])

    decoder = engine.family.decoder_of(engine.model)
    handle = decoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _write(norms: Tensor, hidden: Tensor) -> None:
    """Write the norms of the last n tokens [B, n, D] into [B, N]; a steered pass comes second."""
    norms[:, norms.shape[1] - hidden.shape[1] :] = hidden.float().norm(dim=-1)


class _Sums:
    """Count, sums and extremes of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0.0, 0.0
        self.smallest, self.largest = float("inf"), 0.0
        # Counts on a logarithmic grid, of 1 % steps: quantiles without keeping every norm.
        self.bins: Counter[int] = Counter()

    def add(self, norms: Tensor) -> None:
        if not norms.numel():
            return
        wide = norms.double()
        self.count += norms.numel()
        self.sum += float(wide.sum())
        self.squares += float(wide.square().sum())
        self.smallest = min(self.smallest, float(wide.min()))
        self.largest = max(self.largest, float(wide.max()))
        steps = torch.floor(wide.clamp(min=1e-30).log() / _STEP).nan_to_num(0.0)
        steps, counts = steps.long().unique(return_counts=True)
        self.bins.update(dict(zip(steps.tolist(), counts.tolist(), strict=True)))

    def quantile(self, share: float) -> float:
        below = 0
        for step in sorted(self.bins):
            below += self.bins[step]
            if below >= share * self.count:
                return min(max(math.exp((step + 0.5) * _STEP), self.smallest), self.largest)
        return self.largest

    def finished(self, layer: int, group: str) -> LayerNorms:
        mean = self.sum / self.count
        variance = max(self.squares / self.count - mean**2, 0.0)
        return LayerNorms(
            layer,
            group,
            self.count,
            mean,
            variance**0.5,
            self.smallest,
            self.largest,
            self.quantile(0.05),
            self.quantile(0.95),
        )


def _described(norms: NDArray[np.float32]) -> dict[str, float]:
    quantiles = np.quantile(norms, _QUANTILES)
    return {
        "mean": float(norms.mean(dtype=np.float64)),
        "standard_deviation": float(norms.std(dtype=np.float64)),
        "smallest": float(norms.min()),
        "largest": float(norms.max()),
        **{f"quantile_{q:g}": float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)},
    }
