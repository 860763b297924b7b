"""Metrics that are no means over questions, as objectives."""

from collections.abc import Sequence

import numpy as np
import pytest

import adaptvis.tuning.candidates
from adaptvis.errors import ConfigError
from adaptvis.tasks import Answered, Task
from adaptvis.tuning import Grid, Sweep, objective_for, select
from adaptvis.tuning.candidates import Candidate, adaptvis_candidates
from adaptvis.tuning.cuts import Cuts
from adaptvis.tuning.objective import Metric
from adaptvis.tuning.sweep import Outcome


def outcome(i: int, answer: str, gold: str, **tags: str) -> Outcome:
    right = answer == gold
    return Outcome(str(i), "c", answer, (gold,), right, right, float(right), tags)


def f1(answers: Sequence[Answered]) -> dict[str, float]:
    positive = sum(a.answer == "yes" for a in answers) + sum(a.gold[0] == "yes" for a in answers)
    hits = sum(a.answer == a.gold[0] == "yes" for a in answers)
    return {"f1": 2 * hits / positive if positive else 0.0}


YES_NO = Task("yes-no", "", lambda part: [], metrics=f1)


def yes_no_sweep(questions: int, seed: int = 0) -> Sweep:
    """Three coefficients that say yes more and more often; a tenth of the right answers is yes."""
    random = np.random.default_rng(seed)
    grid = Grid(alphas=(0.5, 1.0, 2.0))
    gold = np.where(random.random(questions) < 0.1, "yes", "no")
    evidence = (gold == "yes") + random.normal(size=questions)
    confidence = random.random(questions)
    table, codes = [], np.empty((1, 3, questions), dtype=np.intp)
    for q in range(questions):
        table += [outcome(q, answer, str(gold[q])) for answer in ("no", "yes")]
        for a, needed in enumerate((2.5, 1.5, 0.6)):
            codes[0, a, q] = 2 * q + int(evidence[q] > needed)
    outcomes = np.empty(len(table), dtype=object)
    outcomes[:] = table
    points = np.array([o.score for o in table])[codes]
    return Sweep(grid, points, confidence, tuple(map(str, range(questions))), outcomes, codes)


def test_f1_prefers_what_accuracy_rejects() -> None:
    sweep = yes_no_sweep(600)
    # By hand: the accuracy of saying no more often is higher, as nine of ten answers are no.
    by_accuracy = sweep.points[0].mean(axis=1)
    assert by_accuracy[0] > by_accuracy[1] > by_accuracy[2]
    chosen = select(sweep, objective_for("f1", YES_NO, sweep), always_steer=True)
    assert chosen.scaling.alpha == 2
    assert chosen.objective == "f1"
    answers = [sweep.outcomes[code] for code in sweep.codes[0, 2]]
    assert chosen.scaling_value == f1(answers)["f1"]
    assert select(sweep, always_steer=True).scaling.alpha == 0.5


@pytest.mark.parametrize("questions", [60, 120])
def test_a_metric_is_maximised_over_every_threshold(questions: int) -> None:
    sweep = yes_no_sweep(questions)
    everything = np.arange(questions)
    objective = objective_for("f1", YES_NO, sweep)
    found = adaptvis_candidates(sweep, objective, everything)
    assert found.exact
    cuts = Cuts.of(sweep.confidence)
    for candidate, value in zip(found.candidates, found.values, strict=True):
        pair = (candidate.selection, candidate.low, candidate.high)
        tried = [
            f1([
                sweep.outcomes[sweep.codes[0, candidate.low if unsure else candidate.high, q]]
                for q, unsure in enumerate(sweep.confidence < cuts.threshold(cut))
            ])["f1"]
            for cut in range(len(cuts.below))
        ]  # fmt: skip
        assert value == pytest.approx(max(tried)), pair
        given = candidate.given(sweep, everything)
        assert objective.value(everything, given) == pytest.approx(value)


def test_what_cannot_be_compared_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yes_no_sweep(200)
    objective = objective_for("f1", YES_NO, sweep)
    whole = adaptvis_candidates(sweep, objective, np.arange(200))
    monkeypatch.setattr(adaptvis.tuning.candidates, "_BUDGET", 200 * 60)
    part = adaptvis_candidates(sweep, objective, np.arange(200))
    assert whole.exact
    assert not part.exact
    assert part.compared <= 60 < whole.compared
    # A ladder and then the best pairs: close to the best of all.
    assert part.values.max() >= whole.values.max() - 0.02


def test_accuracy_as_a_metric_finds_what_accuracy_finds() -> None:
    sweep = yes_no_sweep(300)
    task = Task("t", "", lambda part: [], metrics=lambda a: {"m": sum(x.score for x in a) / len(a)})
    found = adaptvis_candidates(sweep, objective_for("m", task, sweep), np.arange(300))
    exact = adaptvis_candidates(sweep, objective_for("accuracy", task, sweep), np.arange(300))
    np.testing.assert_allclose(found.values, exact.values)


def test_unknown_objectives() -> None:
    sweep = yes_no_sweep(60)
    with pytest.raises(ConfigError, match=r"Unknown objective 'f2': known are accuracy, f1; did"):
        objective_for("f2", YES_NO, sweep)
    with pytest.raises(ConfigError, match="computes no metrics"):
        objective_for("f1", Task("t", "", lambda part: []), sweep)
    bare = Sweep(sweep.grid, sweep.points, sweep.confidence, sweep.images)
    with pytest.raises(ConfigError, match="points only"):
        Metric("f1", f1, bare)


def test_candidates_answer_as_the_policy_does() -> None:
    sweep = yes_no_sweep(60)
    given = Candidate(0, 0, 2, 0.5).given(sweep, np.arange(60))
    assert [int(g) for g in given] == [0 if c < 0.5 else 2 for c in sweep.confidence]
