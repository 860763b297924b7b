"""What steering did to each request, kept in the worker until somebody asks."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptvis.steering.policy import NOT_A_NUMBER

__all__ = ["BUCKETS", "DecisionStore", "Record"]

_KEPT = 10_000
# Upper bounds of the histogram of confidences.
BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Record:
    """One request. The numbers may still be on the device, and in the making.

    request_id: the client's. method: of its configuration; "" where none was asked for.
    """

    request_id: str
    method: str = ""
    reason: str = ""
    low: float = 1.0
    high: float = 1.0
    confidence: Tensor | None = None
    alpha: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; waits for the device."""
        decided = self.alpha is not None
        reason = self.reason or ("" if decided else "the prompt is not finished")
        if self.alpha is not None and float(self.alpha) == 1:
            reason = "alpha is 1"
        confidence = None if self.confidence is None else float(self.confidence)
        if confidence is not None and math.isnan(confidence):
            # JSON has no such number.
            confidence, reason = None, NOT_A_NUMBER
        return {
            "request_id": self.request_id,
            "confidence": confidence,
            "alpha": float(self.alpha) if self.alpha is not None else 1.0,
            "applied": decided and not reason,
            "reason": reason,
        }


class DecisionStore:
    """The last 10 000 decisions by engine request id, and counters since the start."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._uncounted: deque[Record] = deque()
        self.counts = {"scalingvis": 0, "adaptvis_low": 0, "adaptvis_high": 0, "passed_through": 0}
        self.histogram = [0] * len(BUCKETS)
        self.confidence_sum = 0.0

    def open(self, engine_id: str, record: Record) -> None:
        """A request has come; it replaces an older one with its id."""
        self._records[engine_id] = record
        self._records.move_to_end(engine_id)
        if record.reason or not record.method:
            self.counts["passed_through"] += 1
        while len(self._records) > self._kept:
            self._records.popitem(last=False)

    def decide(self, engine_id: str, confidence: Tensor, alpha: Tensor) -> None:
        """The prompt's end was reached; tensors float32 []."""
        record = self._records.get(engine_id)
        if record is not None:
            record.confidence, record.alpha = confidence, alpha
            self._uncounted.append(record)
            if len(self._uncounted) > self._kept:
                self._count()

    def read(self, request_ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Decisions by engine request id; ``request_ids``, the client's, selects."""
        wanted = None if request_ids is None else set(request_ids)
        return {
            engine_id: record.to_dict()
            for engine_id, record in self._records.items()
            if wanted is None or record.request_id in wanted
        }

    def totals(self) -> dict[str, Any]:
        """Counters and histogram for monitoring; waits for the device."""
        self._count()
        return {
            "counts": dict(self.counts),
            "histogram": list(self.histogram),
            "confidence_sum": self.confidence_sum,
        }

    def _count(self) -> None:
        records = list(self._uncounted)
        self._uncounted.clear()
        if not records:
            return
        numbers = [(record.confidence, record.alpha) for record in records]
        # One transfer for all of them.
        table = torch.stack([part for pair in numbers for part in pair if part is not None])
        for record, (confidence, alpha) in zip(records, table.view(-1, 2).tolist(), strict=True):
            if math.isnan(confidence):
                self.counts["passed_through"] += 1
                continue
            branch = record.method
            if branch == "adaptvis":
                low = abs(alpha - record.low) < abs(alpha - record.high)
                branch = "adaptvis_low" if low else "adaptvis_high"
            self.counts[branch] += 1
            self.confidence_sum += confidence
            for index, bound in enumerate(BUCKETS):
                if confidence <= bound:
                    self.histogram[index] += 1
                    break
