"""What the worker remembers of requests."""

from __future__ import annotations

import json

import pytest
import torch

from adaptvis.vllm.decision_store import DecisionStore, Record


def decide(store, engine_id, confidence, alpha, **record):
    store.open(engine_id, Record(engine_id[:-2], **record))
    store.decide(engine_id, torch.tensor(confidence), torch.tensor(alpha))


def test_branches_and_confidences_are_counted_once() -> None:
    store = DecisionStore()
    adaptive = {"method": "adaptvis", "low": 0.5, "high": 1.5}
    decide(store, "a-1", 0.25, 0.5, **adaptive)
    decide(store, "b-1", 0.75, 1.5, **adaptive)
    decide(store, "c-1", 1.0, 2.0, method="scalingvis", low=2.0, high=2.0)
    store.open("d-1", Record("d", reason="the prompt has no image tokens"))
    for _ in range(2):
        totals = store.totals()
        assert totals["counts"] == {
            "scalingvis": 1,
            "adaptvis_low": 1,
            "adaptvis_high": 1,
            "passed_through": 1,
        }
        assert totals["histogram"] == [0, 0, 1, 0, 0, 0, 0, 1, 0, 1]
        assert totals["confidence_sum"] == pytest.approx(2.0)


def test_decisions_are_found_by_the_clients_id() -> None:
    store = DecisionStore()
    decide(store, "a-1", 0.25, 0.5, method="adaptvis")
    store.open("b-1", Record("b", method="adaptvis"))
    decide(store, "c-1", 0.9, 1.0, method="adaptvis")
    assert store.read(["a"]) == {
        "a-1": {
            "request_id": "a",
            "confidence": 0.25,
            "alpha": 0.5,
            "applied": True,
            "reason": "",
        }
    }
    assert store.read(["b"])["b-1"]["reason"] == "the prompt is not finished"
    untouched = store.read(["c"])["c-1"]
    assert (untouched["applied"], untouched["reason"]) == (False, "alpha is 1")


def test_a_confidence_that_is_no_number_is_said_and_spoils_no_total() -> None:
    store = DecisionStore()
    decide(store, "a-1", float("nan"), 1.5, method="adaptvis", low=0.5, high=1.5)
    decide(store, "b-1", 0.25, 0.5, method="adaptvis", low=0.5, high=1.5)
    found = store.read(["a"])["a-1"]
    assert (found["confidence"], found["applied"]) == (None, False)
    assert "not a number" in found["reason"]
    json.dumps(found, allow_nan=False)
    totals = store.totals()
    assert (totals["confidence_sum"], sum(totals["histogram"])) == (0.25, 1)
    assert totals["counts"]["passed_through"] == 1


def test_only_the_latest_are_kept_and_all_are_counted() -> None:
    store = DecisionStore(kept=3)
    for index in range(10):
        decide(store, f"{index}-1", 0.5, 2.0, method="scalingvis")
    assert list(store.read()) == ["7-1", "8-1", "9-1"]
    assert store.totals()["counts"]["scalingvis"] == 10
