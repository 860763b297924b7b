"""The seam with vLLM's V2 model runner, the default of GPUs.

``execute_model`` leaves hidden states for ``sample_tokens``, which computes the logits. Preempted
requests are removed and come back as new ones.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.worker.gpu.model_runner import GPUModelRunner

from adaptvis.vllm.plan import Blocks
from adaptvis.vllm.runner import install_steering
from adaptvis.vllm.step import EarlierRows, Rows, StepAdapter
from adaptvis.vllm.versions import library

__all__ = ["BlockMirror", "install_runner_v2"]


def install_runner_v2() -> None:
    """Steer this class of runners; a second call changes nothing."""
    install_steering(GPUModelRunner, _StepV2)


class BlockMirror:
    """The block tables on the host: this runner keeps them on the device only.

    tables: int32 [requests, blocks] per key-value cache group, by the runner's own index.

    Raises:
        UnsupportedError: attention sees other blocks than the tables name.
    """

    def __init__(self, runner: Any) -> None:
        tables = runner.block_tables
        self.sizes: list[int] = list(tables.block_sizes)
        # Attention may see each block as several smaller ones, which a table may hold already.
        self.split = library().kernel_blocks(runner)
        counted = self.split if library().counts_kernel_blocks() else [1] * len(self.split)
        shapes = [tuple(table.gpu.shape) for table in tables.block_tables]
        self.tables: list[NDArray[np.int32]] = [
            np.zeros((requests, blocks // parts), dtype=np.int32)
            for (requests, blocks), parts in zip(shapes, counted, strict=True)
        ]
        counts = tables.num_blocks.np
        append = tables.append_block_ids

        @functools.wraps(append)
        def mirrored(req_index: int, new_block_ids: Any, overwrite: bool) -> None:
            append(req_index, new_block_ids, overwrite)
            for group, (table, new) in enumerate(zip(self.tables, new_block_ids, strict=True)):
                end = counts[group, req_index] // counted[group]
                table[req_index, end - len(new) : end] = new

        tables.append_block_ids = mirrored

    def blocks(self, indices: NDArray[np.intp]) -> list[Blocks]:
        """The tables of requests with these indices."""
        return [
            _split(table[indices], size, parts)
            for table, size, parts in zip(self.tables, self.sizes, self.split, strict=True)
        ]


def _split(table: NDArray[np.int32], size: int, parts: int) -> Blocks:
    if parts == 1:
        return Blocks(table, size)
    smaller = np.repeat(table * parts, parts, axis=1)
    smaller += np.tile(np.arange(parts, dtype=np.int32), table.shape[1])
    return Blocks(smaller, size // parts)


class _StepV2(StepAdapter):
    def __init__(self, runner: Any) -> None:
        super().__init__(runner)
        self.mirror = BlockMirror(runner)

    @property
    def _batch(self) -> Any:
        return self.runner.execute_model_state.input_batch

    def rows(self, scheduler_output: Any) -> list[Rows]:
        batch = self._batch
        return [
            Rows(request_id, int(computed), int(count), int(start))
            for request_id, computed, count, start in zip(
                batch.req_ids,
                batch.num_computed_tokens_np,
                batch.num_scheduled_tokens,
                batch.query_start_loc_np,
                strict=False,
            )
        ]

    def blocks(self) -> list[Blocks]:
        return self.mirror.blocks(self._batch.idx_mapping_np)

    def logits(self, indices: Sequence[int]) -> Tensor:
        last = torch.from_numpy(self._batch.query_start_loc_np[1:][indices] - 1)
        hidden = self.runner.execute_model_state.hidden_states
        logits: Tensor = self.runner.model.compute_logits(
            hidden[last.to(hidden.device, non_blocking=True)]
        )
        return logits

    @property
    def token_ids(self) -> Tensor:
        found: Tensor = self.runner.input_buffers.input_ids
        return found

    @property
    def embeddings(self) -> Tensor:
        found: Tensor = self.runner.model_state.encoder_runner.inputs_embeds
        return found

    @property
    def rope_positions(self) -> Tensor | None:
        rope = self.runner.model_state.rope_state
        return None if rope is None else rope.positions

    def earlier(self, index: int, begin: int, end: int) -> EarlierRows:
        runner = self.runner
        place = int(self._batch.idx_mapping_np[index])
        rope = runner.model_state.rope_state
        return EarlierRows(
            runner.req_states.all_token_ids.gpu[place, begin:end],
            None if rope is None else rope.read_prefill_positions(place, end)[:, begin:],
        )

    def forward(self, **inputs: Any) -> Tensor:
        hidden: Tensor = self.runner.model(intermediate_tensors=None, **inputs)
        return hidden

    def replace(self, indices: Tensor, last_rows: Tensor, hidden: Tensor) -> None:
        # Log-probabilities of the prompt are taken from the rows before a prompt's last one.
        self.runner.execute_model_state.hidden_states[last_rows] = hidden
