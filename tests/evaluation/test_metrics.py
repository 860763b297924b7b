"""Metrics of tasks: intervals over images, and over the pairs and sets that a metric joins."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from evaluation.made import record

from adaptvis.evaluation.clusters import clusters_of
from adaptvis.evaluation.jackknife import jackknife_gain, jackknife_interval
from adaptvis.evaluation.metrics import MetricFunction, task_metrics
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import Scoring
from adaptvis.evaluation.statistics import Z_95, clustered_interval, paired_gain
from adaptvis.evaluation.summary import summarise
from adaptvis.tasks import Answered
from adaptvis.tasks.mmvp import mmvp_metrics
from adaptvis.tasks.pope import pope_metrics
from adaptvis.tasks.vsr import vsr_metrics


def set_accuracy(answers: Sequence[Answered]) -> dict[str, float]:
    """Groups that are right throughout, over a quarter of the questions, as WhatsUp counts."""
    groups = defaultdict(list)
    for answer in answers:
        groups[answer.tags["group"]].append(answer.correct)
    return {"set": sum(len(g) == 4 and all(g) for g in groups.values()) / (len(answers) / 4)}


def mean(answers: Sequence[Answered]) -> dict[str, float]:
    return {"accuracy": sum(a.score for a in answers) / len(answers)}


def test_sets_are_left_out_whole() -> None:
    # 60 of 100 sets are right; a single wrong answer breaks each of the others.
    records = [
        record(4 * g + k, tags={"group": f"g{g}"}, correct=g < 60 or k > 0)
        for g in range(100)
        for k in range(4)
    ]
    (metric,), _ = task_metrics(set_accuracy, {"baseline": records}, [], joined_by="group")
    assert metric.value == pytest.approx(0.6)
    assert metric.clusters == 100
    half = Z_95 * math.sqrt(0.6 * 0.4 / 100)
    assert metric.low == pytest.approx(0.6 - half, abs=0.025)
    assert metric.high == pytest.approx(0.6 + half, abs=0.025)


def in_pairs(right: Callable[[int], bool], method: str = "baseline") -> list[Record]:
    """300 answers to MMVP's 150 pairs."""
    return [record(i, method, correct=right(i), tags={"pair": str(i // 2)}) for i in range(300)]


def test_the_interval_of_pair_accuracy_holds_its_value() -> None:
    def found(records: list[Record]) -> tuple[float, float, float]:
        (metric,), _ = task_metrics(mmvp_metrics, {"x": records}, [], joined_by="pair")
        assert metric.clusters == 150
        return metric.value, metric.low, metric.high

    assert found(in_pairs(lambda i: i % 2 == 0)) == (0, 0, 0)
    value, low, high = found(in_pairs(lambda i: (i // 2) % 5 < 4))
    assert value == 0.8
    # 150 independent pairs, three in each group left out.
    half = 2.01 * math.sqrt(0.8 * 0.2 / 150)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.02)


def test_one_method_for_one_figure() -> None:
    """The table, reproduce and tune say the same of one metric."""
    before, after = in_pairs(lambda i: i % 3 > 0), in_pairs(lambda i: i % 7 > 0, "x")
    methods = {"baseline": before, "x": after}
    metrics, (gain,) = task_metrics(mmvp_metrics, methods, [("x", "baseline")], joined_by="pair")
    clusters = clusters_of(before, [r.image_id for r in before], "pair")

    def value(answers: Sequence[Answered]) -> float:
        return mmvp_metrics(answers)["pair_accuracy"]

    assert (metrics[0].value, metrics[0].low, metrics[0].high) == pytest.approx(
        jackknife_interval(value, before, clusters)
    )
    expected = jackknife_gain(value, after, before, clusters)
    assert (gain.difference, gain.low, gain.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_a_summary_knows_what_published_metrics_join() -> None:
    records = [replace(r, task="mmvp") for r in in_pairs(lambda i: i % 2 == 0)]
    assert summarise(records, metrics={"mmvp": mmvp_metrics}).metrics[0].clusters == 150
    others = [replace(r, task="mine") for r in records]
    summary = summarise(others, metrics={"mine": mmvp_metrics}, joined_by={"mine": "pair"})
    assert summary.metrics[0].clusters == 150


def test_differences_are_paired() -> None:
    before = [record(i, image_id=f"i{i // 2}", correct=i % 4 < 2) for i in range(400)]
    after = [record(i, "x", image_id=f"i{i // 2}", correct=i % 4 < 2 or i < 40) for i in range(400)]
    metrics, gains = task_metrics(mean, {"baseline": before, "x": after}, [("x", "baseline")])
    points = [[float(r.correct) for r in records] for records in (after, before)]
    images = [r.image_id for r in before]
    expected = paired_gain(*points, images)
    (gain,) = gains
    assert gain.difference == pytest.approx(expected.mean) == pytest.approx(0.05)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert gain.verdict == "reliable gain"
    # Unpaired, the intervals of the two methods overlap by far.
    assert metrics[0].high > metrics[1].low
    low, high = clustered_interval(points[1], images)
    assert (metrics[0].low, metrics[0].high) == pytest.approx((low, high), abs=0.015)


def test_undefined_values_are_left_out() -> None:
    def precision(answers: Sequence[Answered]) -> dict[str, float]:
        said = [a for a in answers if a.answer == "yes"]
        return {"precision": sum(a.correct for a in said) / len(said) if said else math.nan}

    silent = [record(i, answer="no") for i in range(30)]
    assert task_metrics(precision, {"baseline": silent}, []) == ([], [])
    once = [record(i, answer="yes" if i == 0 else "no") for i in range(30)]
    (metric,), _ = task_metrics(precision, {"baseline": once}, [])
    # One answer decides: nothing is known of others.
    assert (metric.value, metric.low, metric.high) == (1, 0, 1)


def test_one_image_says_nothing_of_others() -> None:
    records = [record(i, image_id="same") for i in range(30)]
    metrics, (gain,) = task_metrics(mean, {"a": records, "b": records}, [("b", "a")])
    assert [(m.value, m.low, m.high) for m in metrics] == [(1, 0, 1)] * 2
    assert (gain.low, gain.high) == (-1, 1)
    assert gain.verdict == "too few images to tell"


def test_strict_scoring_flips_no_label() -> None:
    """No word of either kind: POPE's parser reads yes, VSR's rule the wrong label."""

    def found(metric: MetricFunction, task: str, scoring: Scoring, **gold: str) -> dict[str, float]:
        records = []
        for i in range(60):
            label = list(gold)[i % 2]
            correct = task == "pope-random" and label == "yes"
            graded = {"correct": correct, "strict": False, "score": float(correct)}
            answer = {"answer": "a dog", "gold": (gold[label],), "tags": {"label": label}}
            records.append(record(i, task=task, **graded, **answer))
        summary = summarise(records, scoring=scoring, metrics={task: metric})
        return {m.name: m.value for m in summary.metrics}

    published = found(pope_metrics, "pope-random", "reference", yes="yes", no="no")
    assert published["accuracy"] == published["precision"] == 0.5
    assert published["recall"] == published["yes_ratio"] == 1
    strict = found(pope_metrics, "pope-random", "strict", yes="yes", no="no")
    assert strict == published | {"accuracy": 0}
    labels = {"true": "Yes", "false": "No"}
    assert found(vsr_metrics, "vsr", "strict", **labels) == found(
        vsr_metrics, "vsr", "reference", **labels
    )


def test_a_right_answer_in_too_many_words_keeps_its_label() -> None:
    """ "Yes and No" is right for either caption by VSR's published rule, and strictly wrong."""
    records = [
        record(
            i,
            task="vsr",
            answer="Yes and No",
            gold=("Yes",) if i % 2 else ("No",),
            tags={"label": "true" if i % 2 else "false"},
            strict=False,
        )
        for i in range(40)
    ]
    for scoring, rate in (("reference", 1), ("strict", 0)):
        summary = summarise(records, scoring=scoring, metrics={"vsr": vsr_metrics})
        values = {m.name: m.value for m in summary.metrics}
        assert values["precision"] == values["recall"] == values["f1"] == 1
        assert values["reference_f1"] == rate
