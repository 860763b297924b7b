"""The seam with vLLM's V1 model runner.

``execute_model`` leaves hidden states and logits for ``sample_tokens``. In between, the rows of
steered requests are run again and their results put in place of the old ones: scheduler, sampler
and API know nothing of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import CUDAGraphMode
from vllm.distributed.parallel_state import get_tp_group
from vllm.forward_context import set_forward_context
from vllm.logger import init_logger
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from adaptvis.vllm.attention import SteeredMetadata, divert
from adaptvis.vllm.decision_store import DecisionStore, Record
from adaptvis.vllm.images import image_columns, image_runs
from adaptvis.vllm.parameters import ticket_of
from adaptvis.vllm.plan import Blocks, Piece, Progress, SteeredRequest, interval, passes, sharers
from adaptvis.vllm.prefix_keys import first_steered_position
from adaptvis.vllm.second_pass import HeadSlice, decide, metadata_of
from adaptvis.vllm.support import unsupported

__all__ = ["RunnerSteering", "install_runner_v1"]

logger = init_logger("vllm.adaptvis")

_LOGITS_AT_ONCE = 2**25


def install_runner_v1() -> None:
    """Wrap the runner's methods; a second call changes nothing."""
    if getattr(GPUModelRunner.execute_model, "_adaptvis", False):
        return
    initialize_kv_cache = GPUModelRunner.initialize_kv_cache
    execute_model = GPUModelRunner.execute_model

    @functools.wraps(initialize_kv_cache)
    def initialized(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize_kv_cache(self, *args, **kwargs)
        if unsupported(self.vllm_config):
            # The front end refuses requests that ask for steering.
            return
        # Profiling allocates a cache first and another one later.
        steering = getattr(self, "adaptvis", None)
        if steering is None:
            steering = self.adaptvis = RunnerSteering(self)
        steering.attach()

    @functools.wraps(execute_model)
    @torch.inference_mode()
    def steered(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        output = execute_model(self, scheduler_output, *args, **kwargs)
        steering: RunnerSteering | None = getattr(self, "adaptvis", None)
        if steering is not None:
            steering.forget(scheduler_output.finished_req_ids)
            if output is None and self.execute_model_state is not None:
                steering.after_step(scheduler_output)
        return output

    steered._adaptvis = True  # type: ignore[attr-defined]
    GPUModelRunner.initialize_kv_cache = initialized
    GPUModelRunner.execute_model = steered


class RunnerSteering:
    """The steering of one runner: its requests, and the second pass over its buffers."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.decisions = DecisionStore()
        # None for requests that are known and not steered.
        self.requests: dict[str, SteeredRequest | None] = {}
        self.groups: list[list[str]] = []
        self._diverted: set[str] = set()
        # Requests that may have rows to run again; most steps have none.
        self._open: set[str] = set()

    def attach(self) -> None:
        """Divert the attention layers of the decoder.

        Raises:
            UnsupportedError: their cache cannot be read.
        """
        runner = self.runner
        layers = runner.compilation_config.static_forward_context
        self.groups = [list(group.layer_names) for group in runner.kv_cache_config.kv_cache_groups]
        first = None
        for name in (name for group in self.groups for name in group):
            layer = layers[name]
            first = first or layer
            if name not in self._diverted:
                divert(layer, extract_layer_index(name))()
                self._diverted.add(name)
        if first is not None:
            count = first.impl.num_heads
            self.heads = HeadSlice(get_tp_group().rank_in_group * count, count)

    def forget(self, finished: Sequence[str]) -> None:
        """Drop requests that have ended; those preempted stay, with their coefficients."""
        for request_id in finished:
            self.requests.pop(request_id, None)
            self._open.discard(request_id)

    def after_step(self, scheduler_output: Any) -> None:
        """Run the rows of a step again that are steered, and replace their results."""
        for new in scheduler_output.scheduled_new_reqs:
            if self._request(new.req_id) is not None:
                self._open.add(new.req_id)
        for request_id in scheduler_output.scheduled_cached_reqs.resumed_req_ids:
            if self.requests.get(request_id) is not None:
                self._open.add(request_id)
        if not self._open:
            return
        progress = self._progress(scheduler_output)
        self._second_passes(progress)
        for one in progress:
            request = one.request
            if request is not None and request.is_done(one.end):
                self._open.discard(request.request_id)

    def _second_passes(self, progress: Sequence[Progress]) -> None:
        state = self.runner.execute_model_state
        found = [(one, interval(one)) for one in progress]
        pieces = [Piece(one, *rows) for one, rows in found if rows is not None]
        if not pieces:
            return
        undecided = [
            piece.progress
            for piece in pieces
            if piece.progress.request is not None and piece.progress.request.alpha is None
        ]
        if undecided:
            decide(undecided, state.logits, self._share)
            for one in undecided:
                request = one.request
                assert request is not None
                assert request.alpha is not None
                assert request.confidence is not None
                self.decisions.decide(request.request_id, request.confidence, request.alpha)
        blocks = self._blocks()
        for table in blocks:
            # Only blocks that are full can be another request's, too.
            if any(piece.begin // table.size < piece.end // table.size for piece in pieces):
                again = {piece.progress.index for piece in pieces}
                others = [one for one in progress if one.index not in again]
                pieces += sharers(pieces, others, table)
        for batch in passes(pieces, self._most_rows(pieces)):
            self._run(batch, blocks, state)

    def _most_rows(self, pieces: Sequence[Piece]) -> int:
        """How many rows fit into a pass; torch keeps the logits of all of them."""
        most: int = self.runner.max_num_tokens
        if self.runner.device.type == "cpu":
            longest = max(piece.end for piece in pieces)
            most = min(most, max(1, _LOGITS_AT_ONCE // (self.heads.count * longest)))
        return most

    def _progress(self, scheduler_output: Any) -> list[Progress]:
        batch = self.runner.input_batch
        scheduled = scheduler_output.num_scheduled_tokens
        result, start = [], 0
        for index, request_id in enumerate(batch.req_ids):
            count = scheduled[request_id]
            computed = int(batch.num_computed_tokens_cpu[index])
            request = self._request(request_id)
            result.append(Progress(index, computed, count, start, request))
            start += count
        return result

    def _request(self, request_id: str) -> SteeredRequest | None:
        if request_id in self.requests:
            return self.requests[request_id]
        state = self.runner.requests[request_id]
        params = state.sampling_params
        ticket = ticket_of(params.extra_args) if params is not None else None
        request = None
        if ticket is not None:
            self.decisions.open(request_id, _record(ticket))
            if ticket.config is not None:
                images = image_runs(state.mm_features)
                length = state.num_prompt_tokens
                request = SteeredRequest(
                    request_id,
                    ticket.config,
                    length,
                    first_steered_position(ticket, length, images[0][-1][1]),
                    image_columns(images, ticket.config.images, length),
                )
        self.requests[request_id] = request
        return request

    def _blocks(self) -> list[Blocks]:
        tables = self.runner.input_batch.block_table.block_tables
        return [Blocks(table.block_table.np, table.block_size) for table in tables]

    def _share(self, decision: Tensor) -> Tensor:
        group = get_tp_group()
        if group.world_size > 1:
            decision = group.broadcast(decision.contiguous(), src=0)
        return decision

    def _run(self, pieces: list[Piece], blocks: list[Blocks], state: Any) -> None:
        runner = self.runner
        device = runner.device
        metadata: dict[str, SteeredMetadata] = {}
        slots: dict[str, Tensor] = {}
        per_group = metadata_of(pieces, blocks, self.heads, device)
        for names, table, group in zip(self.groups, blocks, per_group, strict=True):
            numbers = np.concatenate(
                [table.slots(piece.progress.index, piece.positions) for piece in pieces]
            )
            of_group = torch.from_numpy(numbers).to(device, non_blocking=True)
            for name in names:
                metadata[name], slots[name] = group, of_group
        step_rows = np.concatenate([piece.step_rows for piece in pieces])
        inputs = self._inputs(pieces, step_rows)
        with set_forward_context(
            metadata,
            runner.vllm_config,
            num_tokens=len(step_rows),
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            slot_mapping=slots,
        ):
            hidden = runner._model_forward(
                intermediate_tensors=None, **inputs, **runner._init_model_kwargs()
            )
        self._replace(pieces, hidden, state)

    def _inputs(self, pieces: list[Piece], step_rows: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Embeddings and positions: the step's own, and those of rows that came before it."""
        runner = self.runner
        rows = torch.from_numpy(np.maximum(step_rows, 0)).to(runner.device, non_blocking=True)
        earlier = np.flatnonzero(step_rows < 0)
        embeddings = runner.inputs_embeds.gpu[rows]
        token_ids = runner.input_ids.gpu[rows]
        if runner.uses_mrope:
            positions = runner.mrope_positions.gpu[:, rows]
        else:
            numbers = np.concatenate([piece.positions for piece in pieces])
            positions = torch.from_numpy(numbers).to(runner.device, non_blocking=True)
        if len(earlier):
            index = torch.from_numpy(earlier).to(runner.device)
            ids, places = self._earlier(pieces)
            # All of them are text: no image stands behind the first steered row.
            token_ids[index] = ids.to(token_ids)
            embeddings[index] = runner.model.embed_input_ids(ids.to(runner.device)).to(embeddings)
            if places is not None:
                positions[:, index] = places.to(positions)
        return {
            "input_ids": token_ids if runner.model.requires_raw_input_tokens else None,
            "positions": positions,
            "inputs_embeds": embeddings,
        }

    def _earlier(self, pieces: list[Piece]) -> tuple[Tensor, Tensor | None]:
        """Token ids, and M-RoPE positions, of rows that an earlier step computed."""
        runner = self.runner
        ids: list[int] = []
        places = []
        for piece in pieces:
            state = runner.requests[runner.input_batch.req_ids[piece.progress.index]]
            stop = min(piece.end, piece.progress.computed)
            ids += state.prompt_token_ids[piece.begin : stop] if stop > piece.begin else []
            if runner.uses_mrope and stop > piece.begin:
                places.append(state.mrope_positions[:, piece.begin : stop])
        return torch.tensor(ids), torch.cat(places, dim=1) if runner.uses_mrope else None

    def _replace(self, pieces: list[Piece], hidden: Tensor, state: Any) -> None:
        """Put the logits of last rows in place of the unsteered ones.

        Hidden states stay: only log-probabilities of the prompt are taken from them.
        """
        device = self.runner.device
        ends = np.cumsum([piece.end - piece.begin for piece in pieces]) - 1
        last = [
            (int(end), piece.progress.index)
            for end, piece in zip(ends, pieces, strict=True)
            if piece.end == piece.progress.end
        ]
        if not last:
            return
        rows, indices = torch.tensor(last).T.to(device, non_blocking=True)
        sampled = hidden[rows]
        state.sample_hidden_states[indices] = sampled
        logits = self.runner.model.compute_logits(sampled)
        if logits is not None:
            state.logits[indices] = logits


def _record(ticket: Any) -> Record:
    config = ticket.config
    if config is None:
        return Record(ticket.request_id, reason=ticket.reason or "steering is off")
    low, high = (
        (config.alpha, config.alpha)
        if config.method == "scalingvis"
        else (config.alpha_low, config.alpha_high)
    )
    return Record(ticket.request_id, config.method, low=low, high=high)
