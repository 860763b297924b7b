"""A LLaVA on its way from one layout to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptvis.errors import CheckpointError
from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.conversion.files import SHARD_BYTES, ShardWriter
from adaptvis.models.conversion.names import classic_name
from adaptvis.models.modeling import AdaptVisLlavaForConditionalGeneration

__all__ = ["EMBEDDINGS", "HEAD", "Checkpoint", "write_weights"]

EMBEDDINGS = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


@dataclass
class Checkpoint:
    """A configuration, a processor and tensors under the hub's names, read when asked for.

    tensor: one tensor by its name.
    extra: tensors that replace, or are added to, the stored ones.
    """

    source: Path
    config: AdaptVisLlavaConfig
    processor: Any
    generation_config: Any
    stored: Callable[[], Iterator[tuple[str, Tensor]]]
    tensor: Callable[[str], Tensor]
    extra: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor once, as it is to be written."""
        for name, tensor in self.stored():
            if name not in self.extra:
                yield name, tensor
        yield from self.extra.items()


def write_weights(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    rename: Callable[[str], str] = str,
    keep: Callable[[str, Tensor], Tensor | None] = lambda name, tensor: tensor,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write all tensors, checked against what the configuration asks for.

    Args:
        keep: what is written of a tensor; None leaves it out.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or not one of this architecture.
    """
    expected = _expected(checkpoint.config)
    writer = ShardWriter(folder, shard_bytes)
    for name, tensor in checkpoint.tensors():
        shape = expected.pop(name, None)
        if shape is None:
            if name == HEAD and checkpoint.config.tie_word_embeddings:
                continue
            raise CheckpointError(
                f"{checkpoint.source} has a tensor {name!r} that no LLaVA of its configuration "
                "has; it is a checkpoint of another architecture"
            )
        if shape != tensor.shape:
            raise CheckpointError(
                f"{name} of {checkpoint.source} has shape {tuple(tensor.shape)} and its "
                f"configuration asks for {tuple(shape)}; the two do not belong together"
            )
        kept = keep(name, tensor)
        if kept is not None:
            writer.add(rename(name), kept)
    if expected:
        raise CheckpointError(
            f"{checkpoint.source} lacks {len(expected)} tensors of its architecture, the first of "
            f"them {min(expected)}; get all of its shards"
        )
    writer.finish()


def _expected(config: AdaptVisLlavaConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AdaptVisLlavaForConditionalGeneration(config)
    tied = config.tie_word_embeddings
    named = {classic_name(name): tensor.shape for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in named.items() if name and not (tied and name == HEAD)}
