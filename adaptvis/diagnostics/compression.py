"""The compression study: how few image tokens will do?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adaptvis.config import SteeringConfig
from adaptvis.diagnostics.accuracy import Accuracies, Asked, ask_points, at_most, compare
from adaptvis.diagnostics.compressed import (
    PUBLISHED,
    compressed,
    default_sizes,
    grid_side,
    tokens_per_image,
)
from adaptvis.diagnostics.drawing import new_figure, plain_label
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Sample, Task

__all__ = ["CompressionResult", "study_compression"]

# Section 3.2: -8.5 % in the worst case; read as points of accuracy.
_PUBLISHED_DROP = 0.085


@dataclass(frozen=True, kw_only=True)
class CompressionResult(Result):
    """Accuracy with all image tokens against fewer.

    full: tokens per image without compression.
    pooled: for each number of tokens, all questions and each category.
    variants: the same for other checkpoints, by name. variant_tokens: their tokens per image.
    left_out: numbers of tokens that were asked for and that the grid does not have.
    """

    instrument = "compression"
    title = "Compression of image tokens"
    source = "Beyond Semantics, section 3.2 and figure 2"

    full: int
    pooled: dict[int, list[Accuracies]]
    variants: dict[str, list[Accuracies]] = field(default_factory=dict)
    variant_tokens: dict[str, int] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Accuracy and paired drop of all questions, by number of tokens and by variant."""
        first = next(iter([*self.pooled.values(), *self.variants.values()]))[0]
        return {
            "questions": first.questions,
            "images": first.images,
            f"{self.full} tokens": {
                "accuracy": first.original,
                "95 %": [first.original_low, first.original_high],
            },
            **{_tokens(size): _short(groups[0]) for size, groups in self.pooled.items()},
            **{
                f"variant {name}": {"tokens": self.variant_tokens[name], **_short(groups[0])}
                for name, groups in self.variants.items()
            },
            "sizes left out": ", ".join(map(str, self.left_out)) or "none",
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per change and group."""
        pooled = [
            {"tokens": size, **accuracies.row()}
            for size, groups in self.pooled.items()
            for accuracies in groups
        ]
        variants = [
            {"tokens": self.variant_tokens[name], **accuracies.row()}
            for name, groups in self.variants.items()
            for accuracies in groups
        ]
        return pooled + variants

    def figure(self) -> Any:
        """Accuracy against tokens per image: pooled at inference, and trained variants."""
        figure, axes = new_figure(height=3.6)
        first = next(iter([*self.pooled.values(), *self.variants.values()]))[0]
        labels = [f"{self.full}\n(all)", *map(str, self.pooled)]
        changed = [groups[0] for groups in self.pooled.values()]
        means = [first.original, *(a.changed for a in changed)]
        lows = [first.original_low, *(a.changed_low for a in changed)]
        highs = [first.original_high, *(a.changed_high for a in changed)]
        _points(axes, range(len(means)), means, lows, highs, "o-", "#000000", "pooled at inference")
        if self.variants:
            others = [groups[0] for groups in self.variants.values()]
            places = range(len(labels), len(labels) + len(others))
            labels += [
                f"{self.variant_tokens[name]}\n{plain_label(name, 18)}" for name in self.variants
            ]
            _points(
                axes,
                places,
                [a.changed for a in others],
                [a.changed_low for a in others],
                [a.changed_high for a in others],
                "D",
                "#D55E00",
                "other checkpoints",
            )
        line = 100 * (first.original - _PUBLISHED_DROP)
        axes.axhline(line, color="#0072B2", linestyle=":", label="8.5 points below all tokens")
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylim(0, 102)
        axes.set_xlabel("image tokens per image")
        axes.set_ylabel("accuracy (%), 95 % intervals")
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return figure

    def reading(self) -> str:
        """What was measured and how to read the picture."""
        first = next(iter([*self.pooled.values(), *self.variants.values()]))[0]
        text = (
            f"{first.questions} questions about {first.images} images, answered with all "
            f"{self.full} image tokens and with fewer: the projected grid is average-pooled, and "
            "the prompt has that many image tokens less, at inference and without retraining (the "
            "paper retrained its models for each size, so a loss here is an upper bound of what "
            "it would cost a trained one). A flat line means that the model answers from what is "
            "in the image as a whole, and not from where. The dotted line is the largest loss "
            "that the paper reports."
        )
        if self.variants:
            text += " Diamonds are other checkpoints on the same questions, with paired intervals."
        if self.left_out:
            text += (
                f" Left out, because the model's grid has {self.full} tokens: "
                f"{', '.join(map(str, self.left_out))}."
            )
        return text

    def findings(self) -> list[Finding]:
        """What the strongest compression costs."""
        claim = "Compressing 576 image tokens to 1 costs at most 8.5 % (section 3.2, retrained)"
        found = []
        if self.pooled:
            size = min(self.pooled)
            found.append(
                Finding(
                    claim,
                    f"pooled at inference from {self.full} to {_tokens(size)}, not retrained: "
                    + _measured(self.pooled[size][0]),
                    _holds(self.pooled[size][0]) if size == 1 else None,
                )
            )
        return found + [
            Finding(
                claim, f"{name}, trained with 1 token: {_measured(groups[0])}", _holds(groups[0])
            )
            for name, groups in self.variants.items()
            if self.variant_tokens[name] == 1
        ]


def study_compression(
    engine: HFEngine,
    task: Task,
    samples: Sequence[Sample],
    *,
    config: SteeringConfig | None = None,
    sizes: Sequence[int] | None = None,
    variants: Mapping[str, Callable[[], HFEngine]] | None = None,
    batch_size: int = 1,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> CompressionResult:
    """Accuracy with fewer image tokens, in pairs with all of them.

    Args:
        sizes: tokens per image, square numbers; None takes the published 256, 64, 16 and 1, and
            squares of halved sides for small grids. Those that the grid does not have are left out.
        variants: other checkpoints by name, such as ones trained with compression; each is loaded
            when its turn comes and dropped after it.

    Raises:
        UnsupportedError: not one square grid per image, or regions are steered.
        ConfigError: a size is no square number, or nothing is left to compare.
        DataError: no question could be asked.
    """
    side = grid_side(engine, samples[0].query())
    if getattr(config, "regions", None):
        raise UnsupportedError(
            "Regions name tokens of the whole grid, which compression removes; steer all image "
            "tokens instead"
        )
    wanted = default_sizes(side) if sizes is None else tuple(dict.fromkeys(sizes))
    for size in wanted:
        if size < 1 or int(size**0.5 + 0.5) ** 2 != size:
            raise ConfigError(f"Sizes must be square numbers such as 256,64,16,1, got {size}")
    fitting = [size for size in wanted if size < side * side]
    asked_for = PUBLISHED if sizes is None else wanted
    if not fitting and not variants:
        raise ConfigError(
            f"Nothing to compare: this model has {side * side} image tokens, and none of the "
            f"sizes {', '.join(map(str, wanted))} is smaller"
        )

    def ask(asked: HFEngine, under: SteeringConfig | None, doing: str) -> Any:
        return ask_points(
            asked,
            task,
            samples,
            config=under,
            batch_size=batch_size,
            doing=doing,
            progress=progress,
        )

    about = Asked.of(task, samples)
    original = ask(engine, config, f"{side * side} tokens")
    pooled = {}
    for size in fitting:
        with compressed(engine, side, size) as shorter:
            changed = ask(shorter, config, _tokens(size))
        pooled[size] = compare(_tokens(size), original, changed, about, seed=seed)
    others, variant_tokens = {}, {}
    for name, load in (variants or {}).items():
        variant = load()
        variant_tokens[name] = tokens_per_image(variant, samples[0].query())
        others[name] = compare(name, original, ask(variant, None, name), about, seed=seed)
        del variant
    return CompressionResult(
        engine=engine.describe(),
        settings={**(settings or {}), "variants": list(others)},
        full=side * side,
        pooled=pooled,
        variants=others,
        variant_tokens=variant_tokens,
        left_out=tuple(size for size in asked_for if size >= side * side),
    )


def _tokens(size: int) -> str:
    return f"{size} token" if size == 1 else f"{size} tokens"


def _short(a: Accuracies) -> dict[str, Any]:
    return {
        "accuracy": a.changed,
        "95 %": [a.changed_low, a.changed_high],
        "drop": a.drop,
        "drop, 95 %": [a.drop_low, a.drop_high],
    }


def _measured(a: Accuracies) -> str:
    return (
        f"accuracy {a.original:.1%} to {a.changed:.1%}, drop {100 * a.drop:.1f} points (95 % "
        f"interval {100 * a.drop_low:.1f} to {100 * a.drop_high:.1f})"
    )


def _holds(a: Accuracies) -> bool | None:
    return at_most(_PUBLISHED_DROP, a.drop_low, a.drop_high, a.images)


def _points(
    axes: Any,
    places: Sequence[int],
    means: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    style: str,
    colour: str,
    label: str,
) -> None:
    below = 100 * np.subtract(means, lows).clip(0)
    above = 100 * np.subtract(highs, means).clip(0)
    axes.errorbar(
        places,
        100 * np.asarray(means),
        yerr=[below, above],
        fmt=style,
        color=colour,
        capsize=3,
        label=label,
    )
