"""The seam with vLLM's V1 model runner.

``execute_model`` leaves hidden states and logits for ``sample_tokens``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from adaptvis.vllm.plan import Blocks
from adaptvis.vllm.runner import install_steering
from adaptvis.vllm.step import EarlierRows, Rows, StepAdapter

__all__ = ["install_runner_v1"]


def install_runner_v1() -> None:
    """Steer this class of runners; a second call changes nothing."""
    install_steering(GPUModelRunner, _StepV1)


class _StepV1(StepAdapter):
    def rows(self, scheduler_output: Any) -> list[Rows]:
        batch = self.runner.input_batch
        scheduled = scheduler_output.num_scheduled_tokens
        result, start = [], 0
        for index, request_id in enumerate(batch.req_ids):
            count = scheduled[request_id]
            computed = int(batch.num_computed_tokens_cpu[index])
            result.append(Rows(request_id, computed, count, start))
            start += count
        return result

    def blocks(self) -> list[Blocks]:
        tables = self.runner.input_batch.block_table.block_tables
        return [Blocks(table.block_table.np, table.block_size) for table in tables]

    def logits(self, indices: Sequence[int]) -> Tensor:
        logits: Tensor = self.runner.execute_model_state.logits
        return logits[torch.tensor(indices).to(logits.device, non_blocking=True)]

    @property
    def token_ids(self) -> Tensor:
        found: Tensor = self.runner.input_ids.gpu
        return found

    @property
    def embeddings(self) -> Tensor:
        found: Tensor = self.runner.inputs_embeds.gpu
        return found

    @property
    def rope_positions(self) -> Tensor | None:
        return self.runner.mrope_positions.gpu if self.runner.uses_mrope else None

    def earlier(self, index: int, begin: int, end: int) -> EarlierRows:
        runner = self.runner
        state = runner.requests[runner.input_batch.req_ids[index]]
        return EarlierRows(
            torch.tensor(state.prompt_token_ids[begin:end]),
            state.mrope_positions[:, begin:end] if runner.uses_mrope else None,
        )

    def forward(self, **inputs: Any) -> Tensor:
        runner = self.runner
        hidden: Tensor = runner._model_forward(
            intermediate_tensors=None, **inputs, **runner._init_model_kwargs()
        )
        return hidden

    def replace(self, indices: Tensor, last_rows: Tensor, hidden: Tensor) -> None:
        # Hidden states stay: only log-probabilities of the prompt are taken from them.
        state = self.runner.execute_model_state
        state.sample_hidden_states[indices] = hidden
        logits = self.runner.model.compute_logits(hidden)
        if logits is not None:
            state.logits[indices] = logits
