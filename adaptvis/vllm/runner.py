"""The steering of one model runner: its requests, and the second pass after each of its steps.

A step leaves hidden states for sampling. In between, the rows of steered requests are run again and
their results put in place of the old ones: scheduler, sampler and API know nothing of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import CUDAGraphMode
from vllm.distributed.parallel_state import get_tp_group
from vllm.forward_context import set_forward_context
from vllm.model_executor.models.interfaces import requires_raw_input_tokens
from vllm.model_executor.models.utils import extract_layer_index

from adaptvis.vllm.attention import SteeredMetadata, divert
from adaptvis.vllm.decision_store import DecisionStore, Record
from adaptvis.vllm.images import image_columns, image_runs
from adaptvis.vllm.parameters import ticket_of
from adaptvis.vllm.plan import Blocks, Piece, Progress, SteeredRequest, interval, passes, sharers
from adaptvis.vllm.prefix_keys import first_steered_position
from adaptvis.vllm.second_pass import HeadSlice, decide, metadata_of
from adaptvis.vllm.step import StepAdapter
from adaptvis.vllm.support import unsupported
from adaptvis.vllm.versions import library

__all__ = ["RunnerSteering", "install_steering"]

_LOGITS_AT_ONCE = 2**25


def install_steering(runner_class: Any, step_class: type[StepAdapter]) -> None:
    """Wrap the methods of a class of model runners; a second call changes nothing."""
    if getattr(runner_class.execute_model, "_adaptvis", False):
        return
    initialize_kv_cache = runner_class.initialize_kv_cache
    execute_model = runner_class.execute_model

    @functools.wraps(initialize_kv_cache)
    def initialized(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize_kv_cache(self, *args, **kwargs)
        if unsupported(self.vllm_config):
            # The front end refuses requests that ask for steering.
            return
        # Profiling allocates a cache first and another one later, with other block tables.
        step = step_class(self)
        steering = getattr(self, "adaptvis", None)
        if steering is None:
            steering = self.adaptvis = RunnerSteering(self, step)
        steering.step = step
        steering.attach()

    @functools.wraps(execute_model)
    @torch.inference_mode()
    def steered(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        output = execute_model(self, scheduler_output, *args, **kwargs)
        steering: RunnerSteering | None = getattr(self, "adaptvis", None)
        if steering is not None and not kwargs.get("dummy_run"):
            steering.forget(scheduler_output.finished_req_ids)
            if output is None and self.execute_model_state is not None:
                steering.after_step(scheduler_output)
        return output

    steered._adaptvis = True  # type: ignore[attr-defined]
    runner_class.initialize_kv_cache = initialized
    runner_class.execute_model = steered


class RunnerSteering:
    """The requests of one runner that are steered, and the second pass over its buffers."""

    def __init__(self, runner: Any, step: StepAdapter) -> None:
        self.runner = runner
        self.step = step
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

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have ended; those preempted stay, with their coefficients."""
        for request_id in finished:
            self.requests.pop(request_id, None)
            self._open.discard(request_id)

    def after_step(self, scheduler_output: Any) -> None:
        """Run the rows of a step again that are steered, and replace their results."""
        for new in scheduler_output.scheduled_new_reqs:
            # A preempted request may come back as a new one.
            if self._request(new) is not None:
                self._open.add(new.req_id)
        for request_id in scheduler_output.scheduled_cached_reqs.resumed_req_ids:
            if self.requests.get(request_id) is not None:
                self._open.add(request_id)
        if not self._open:
            return
        progress = [
            Progress(index, one.computed, one.scheduled, one.start, self.requests[one.request_id])
            for index, one in enumerate(self.step.rows(scheduler_output))
        ]
        self._second_passes(progress)
        for one in progress:
            request = one.request
            if request is not None and request.is_done(one.end):
                self._open.discard(request.request_id)

    def _second_passes(self, progress: Sequence[Progress]) -> None:
        found = [(one, interval(one)) for one in progress]
        pieces = [Piece(one, *rows) for one, rows in found if rows is not None]
        if not pieces:
            return
        undecided = {
            piece.progress.index: request
            for piece in pieces
            if (request := piece.progress.request) is not None and request.alpha is None
        }
        if undecided:
            requests = list(undecided.values())
            decided = decide(requests, self.step.logits(list(undecided)), self._share)
            for request, (confidence, alpha) in zip(requests, decided, strict=True):
                self.decisions.decide(request.request_id, confidence, alpha)
        blocks = self.step.blocks()
        for table in blocks:
            # Only blocks that are full can be another request's, too.
            if any(piece.begin // table.size < piece.end // table.size for piece in pieces):
                again = {piece.progress.index for piece in pieces}
                others = [one for one in progress if one.index not in again]
                pieces += sharers(pieces, others, table)
        for batch in passes(pieces, self._most_rows(pieces)):
            self._run(batch, blocks)

    def _most_rows(self, pieces: Sequence[Piece]) -> int:
        """How many rows fit into a pass; torch keeps the logits of all of them."""
        most: int = self.runner.max_num_tokens
        if self.runner.device.type == "cpu":
            longest = max(piece.end for piece in pieces)
            most = min(most, max(1, _LOGITS_AT_ONCE // (self.heads.count * longest)))
        return most

    def _request(self, new: Any) -> SteeredRequest | None:
        """What is known of a request of ``scheduled_new_reqs``; None if it is not steered."""
        if new.req_id in self.requests:
            return self.requests[new.req_id]
        params = new.sampling_params
        ticket = ticket_of(params.extra_args) if params is not None else None
        request = None
        if ticket is not None:
            self.decisions.open(new.req_id, _record(ticket))
            if ticket.config is not None:
                images = image_runs(new.mm_features)
                length = library().prompt_length(new)
                request = SteeredRequest(
                    new.req_id,
                    ticket.config,
                    length,
                    first_steered_position(ticket, length, images[0][-1][1]),
                    image_columns(images, ticket.config.images, length),
                )
        self.requests[new.req_id] = request
        return request

    def _share(self, decision: Tensor) -> Tensor:
        group = get_tp_group()
        if group.world_size > 1:
            decision = group.broadcast(decision.contiguous(), src=0)
        return decision

    def _run(self, pieces: list[Piece], blocks: list[Blocks]) -> None:
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
            hidden = self.step.forward(**inputs)
        self._replace(pieces, hidden)

    def _inputs(self, pieces: list[Piece], step_rows: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Embeddings and positions: the step's own, and those of rows that came before it."""
        model, device = self.runner.model, self.runner.device
        rows = torch.from_numpy(np.maximum(step_rows, 0)).to(device, non_blocking=True)
        embeddings, token_ids = self.step.embeddings[rows], self.step.token_ids[rows]
        of_step = self.step.rope_positions
        if of_step is None:
            numbers = np.concatenate([piece.positions for piece in pieces])
            positions = torch.from_numpy(numbers).to(device, non_blocking=True)
        else:
            positions = of_step[:, rows]
        found = [
            self.step.earlier(piece.progress.index, piece.begin, stop)
            for piece in pieces
            if (stop := min(piece.end, piece.progress.computed)) > piece.begin
        ]
        if found:
            index = torch.from_numpy(np.flatnonzero(step_rows < 0)).to(device)
            # All of them are text: no image stands behind the first steered row.
            ids = torch.cat([one.token_ids for one in found]).to(device)
            token_ids[index] = ids.to(token_ids)
            embeddings[index] = model.embed_input_ids(ids).to(embeddings)
            places = [one.positions for one in found if one.positions is not None]
            if places:
                positions[:, index] = torch.cat(places, dim=1).to(positions)
        return {
            "input_ids": token_ids if requires_raw_input_tokens(model) else None,
            "positions": positions,
            "inputs_embeds": embeddings,
        }

    def _replace(self, pieces: list[Piece], hidden: Tensor) -> None:
        ends = np.cumsum([piece.end - piece.begin for piece in pieces]) - 1
        last = [
            (int(end), piece.progress.index, int(piece.step_rows[-1]))
            for end, piece in zip(ends, pieces, strict=True)
            if piece.end == piece.progress.end
        ]
        if last:
            rows, indices, last_rows = torch.tensor(last).T.to(
                self.runner.device, non_blocking=True
            )
            self.step.replace(indices, last_rows, hidden[rows])


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
