"""Memory of one GPU in each stage, planned before anything is loaded.

P parameters, T of them trained, N GPUs, b conversations of S tokens at once, c bytes per number of
the arithmetic (2 in bfloat16). Weights are kept in float32, DeepSpeed's in bfloat16 with a float32
copy of what is trained.

| | weights | gradients | optimiser | working copies |
|---|---|---|---|---|
| DDP | 4 P | 4 T, and 4 T of buckets | 8 T | autocast's casts, c P |
| FSDP | 4 P / N | 4 T / N | 8 T / N | two layers, c + 4 |
| ZeRO-2 | 2 P | 2 T / N | (4 + 8) T / N | a bucket of 1e9 bytes |
| ZeRO-3 | 2 P / N | 2 T / N | (4 + 8) T / N | two layers, 2 |

Activations of a decoder layer with memory-efficient attention, per token: c (8 D + 2 K + 4 I) for
what the products keep and 16 D for the two norms' float32 copies; checkpointing keeps c D of each
layer, and one layer whole while it is computed again. Logits: (c + 8) V per token, in the dtype, in
float32, and their gradient. S is the stage's longest conversation, so this is an upper estimate.
"""

from __future__ import annotations

from typing import NamedTuple

from adaptvis.training.llava.recipe import Recipe, Stage
from adaptvis.training.llava.shapes import Shapes
from adaptvis.training.llava.sharing import share_of

__all__ = ["STRATEGIES", "Memory", "activation_bytes", "plan", "trained_parameters"]

STRATEGIES = ("DDP", "FSDP", "ZeRO-2", "ZeRO-3")
_LONGEST = 2048
# What the driver, the libraries and the allocator's gaps take beside the tensors.
_CONTEXT, _GAPS = 1.5e9, 1.05


class Memory(NamedTuple):
    """Bytes on one GPU."""

    weights: float
    gradients: float
    optimiser: float
    working: float
    activations: float

    @property
    def total(self) -> float:
        """With what a process takes beside its tensors."""
        return _GAPS * sum(self) + _CONTEXT


def trained_parameters(recipe: Recipe, stage: Stage, shapes: Shapes) -> int:
    """Number of parameters with a gradient."""
    language = shapes.adapters if recipe.uses_lora(stage) else shapes.language_model
    sizes = {"projector": shapes.projector, "language_model": language}
    return sum(sizes[part] for part in stage.trains)


def activation_bytes(
    shapes: Shapes, *, batch: int, tokens: int, width: int, checkpointing: bool
) -> float:
    """What the language model keeps for its backward pass, and its logits.

    Args:
        tokens: of one conversation, image tokens included.
        width: bytes per number of the arithmetic.
    """
    per_layer = width * (8 * shapes.hidden + 2 * shapes.key_value + 4 * shapes.intermediate)
    per_layer += 16 * shapes.hidden
    kept = shapes.layers * per_layer
    if checkpointing:
        kept = shapes.layers * width * shapes.hidden + per_layer
    return float(batch * tokens * (kept + (width + 8) * shapes.vocabulary))


def plan(
    recipe: Recipe, stage: Stage, shapes: Shapes, *, gpus: int, strategy: str, checkpointing: bool
) -> Memory:
    """Bytes on each of `gpus` GPUs under one of `STRATEGIES`.

    Raises:
        ConfigError: so many GPUs cannot share the stage's global batch evenly.
    """
    width = 2 if recipe.precision == "bfloat16" else 4
    trained = trained_parameters(recipe, stage, shapes)
    parameters = shapes.total + (shapes.adapters if recipe.uses_lora(stage) else 0)
    share = 1 if strategy == "DDP" else gpus
    two_layers = 2 * shapes.layer
    weights, gradients, optimiser, working = {
        "DDP": (4 * parameters, 8 * trained, 8 * trained, width * parameters * (width < 4)),
        "FSDP": (4 * parameters / share, 4 * trained / share, 8 * trained / share, two_layers * 6),
        "ZeRO-2": (2 * parameters, 2 * trained / share, 12 * trained / share, 1e9),
        "ZeRO-3": (
            2 * parameters / share,
            2 * trained / share,
            12 * trained / share,
            two_layers * 2,
        ),
    }[strategy]
    activations = activation_bytes(
        shapes,
        batch=share_of(stage, gpus).at_once,
        tokens=stage.max_length or _LONGEST,
        width=width,
        checkpointing=checkpointing,
    )
    return Memory(weights, gradients, optimiser, working, activations)
