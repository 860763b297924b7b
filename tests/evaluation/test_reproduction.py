"""Our figures beside published ones, on records made by hand."""

from collections.abc import Sequence

import pytest

from adaptvis.config import ScalingVis
from adaptvis.engine import Answer
from adaptvis.errors import DataError
from adaptvis.evaluation.published import PUBLISHED, Published
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.reproduction import compare
from adaptvis.evaluation.statistics import wilson_interval
from adaptvis.tasks import Answered, Grade, Sample, Task

ROW = Published("scaling-m-t", "a paper", "t", {"accuracy": 70.0}, None, ScalingVis(alpha=2))
TASK = Task("t", "", lambda part: [])


def record(i: int, points: float, image: str, method: str) -> Record:
    sample = Sample(str(i), "?", lambda: (), ("a",), "c", image)
    answer = Answer("a", (1,), 0.9, 1.0, True)
    grade = Grade(points >= 0.5, False, True, score=points)
    return Record.of(sample, answer, grade, task="t", model="m", method=method)


def records(right: int, of: int, method: str, per_image: int = 1) -> list[Record]:
    return [record(i, float(i < right), f"i{i // per_image}", method) for i in range(of)]


def test_ours_beside_theirs_with_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Published("base-m-t", "a paper", "t", {"accuracy": 60.3}, None)
    monkeypatch.setitem(PUBLISHED, "base-m-t", base)
    own = {"baseline": records(60, 100, "baseline"), "scalingvis": records(85, 100, "scalingvis")}
    baseline, steered = compare(ROW, own, TASK)
    low, high = wilson_interval(60, 100)
    assert (baseline.ours, baseline.published) == (60.0, 60.3)
    assert (baseline.low, baseline.high) == pytest.approx((100 * low, 100 * high))
    assert baseline.agrees
    assert (steered.ours, steered.published) == (85.0, 70.0)
    assert steered.agrees is False
    assert steered.to_dict()["agrees"] is False


def test_without_a_published_baseline_there_is_nothing_to_agree_with() -> None:
    own = {"baseline": records(60, 100, "baseline"), "scalingvis": records(85, 100, "scalingvis")}
    assert compare(ROW, own, TASK)[0].published is None
    assert compare(ROW, own, TASK)[0].agrees is None


def test_questions_about_one_image_widen_the_interval() -> None:
    alone = compare(ROW, {"scalingvis": records(60, 120, "scalingvis")}, TASK)[0]
    shared = compare(ROW, {"scalingvis": records(60, 120, "scalingvis", per_image=6)}, TASK)[0]
    assert shared.ours == alone.ours == 50
    # Six questions of an image agree here: as many as 20 independent ones, sqrt(6) as wide.
    assert shared.high - shared.low == pytest.approx(6**0.5 * (alone.high - alone.low), rel=0.1)


def test_soft_points_are_averaged() -> None:
    own = [record(i, 0.3 if i % 2 else 0.9, str(i), "scalingvis") for i in range(200)]
    found = compare(ROW, {"scalingvis": own}, TASK)[0]
    assert found.ours == pytest.approx(60)
    # Standard deviation 0.3, 200 questions.
    assert found.high - found.ours == pytest.approx(100 * 1.96 * 0.3 / 200**0.5, rel=0.1)


def test_other_metrics_of_the_task() -> None:
    def metrics(answers: Sequence[Answered]) -> dict[str, float]:
        return {"f1": sum(a.correct for a in answers) / len(answers)}

    row = Published("scaling-m-t", "", "t", {"accuracy": 50.0, "f1": 51.0}, None)
    own = {"baseline": records(50, 100, "baseline")}
    accuracy, f1 = compare(row, own, Task("t", "", lambda part: [], metrics=metrics))
    assert (accuracy.metric, f1.metric) == ("accuracy", "f1")
    assert (f1.ours, f1.published) == (50.0, 51.0)
    assert f1.high - f1.low == pytest.approx(accuracy.high - accuracy.low, rel=0.35)
    with pytest.raises(DataError, match="does not compute f1"):
        compare(row, own, TASK)
