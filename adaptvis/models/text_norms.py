"""The norms of a language model's token embeddings, which the Normalize variant aims at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptvis.errors import CheckpointError
from adaptvis.steering.norms import measure_norms

__all__ = ["measure_text_norms"]


def measure_text_norms(
    model: PreTrainedModel | nn.Module | Tensor,
    *,
    ignored: Iterable[int] = (),
    rows: int | None = None,
) -> tuple[float, float]:
    """Mean and largest L2 norm of the token embeddings (Beyond Semantics, section 5.2).

    All-zero rows, which pad a table, do not count, and neither do a model's own image and pad
    tokens (``image_token_id``, ``pad_token_id`` of its configuration), which are placeholders.

    Args:
        model: a model with input embeddings, an embedding module (with ``weight`` [V, D], called
            with token ids, so that a scale inside it counts), or the table [V, D] itself.
        ignored: ids of further placeholder tokens.
        rows: only the first so many rows: the size of the tokenizer's vocabulary where the table
            was padded with something else than zeros.

    Raises:
        CheckpointError: no row is left, or a norm is not finite.
    """
    left_out: set[int] = set(ignored)
    if isinstance(model, PreTrainedModel):
        for config in (model.config, model.config.get_text_config()):
            for name in ("image_token_id", "pad_token_id"):
                token = getattr(config, name, None)
                left_out |= {token} if isinstance(token, int) else set()
        model = model.get_input_embeddings()
    table: Any = model if isinstance(model, Tensor) else model.weight
    count: int = table.shape[0] if rows is None else min(rows, table.shape[0])
    embed: Any = table.__getitem__ if isinstance(model, Tensor) else model
    norms = measure_norms(embed, count, table.device)
    kept = norms > 0
    kept[[token for token in left_out if 0 <= token < count]] = False
    norms = norms[kept]
    if not len(norms) or not bool(torch.isfinite(norms).all()):
        raise CheckpointError(
            f"The embedding table of {count} rows has no finite norms to measure; load the "
            "language model's trained weights first, or give target_mean and max_norm"
        )
    return float(norms.double().mean()), float(norms.max())
