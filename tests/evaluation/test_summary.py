"""What a summary counts: scorings, fractions, branches, questions left out; and its file."""

import json
from pathlib import Path

import pytest
from evaluation.made import failed, record
from evaluation.test_metrics import mean

from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation.environment import mixed_image_processors
from adaptvis.evaluation.statistics import wilson_interval
from adaptvis.evaluation.summary import read_summary, summarise, write_summary
from adaptvis.evaluation.tables import p_value


def test_fractions_are_averaged_and_resampled() -> None:
    records = [record(i, score=(0.0, 0.3, 0.6, 0.9, 1.0)[i % 5]) for i in range(100)]
    records += [record(i, "x", score=(0.3, 0.3, 0.6, 1.0, 1.0)[i % 5]) for i in range(100)]
    summary = summarise(records)
    before, after = summary.accuracies_of("m", "t", "all")
    assert before.accuracy == pytest.approx(0.56)
    assert before.interval == "bootstrap"
    assert before.low < 0.56 < before.high
    assert before.high - before.low < wilson_interval(56, 100)[1] - wilson_interval(56, 100)[0]
    (gain,) = summary.gains_of("m", "t")
    assert gain.gain.mean == pytest.approx(0.08) == after.accuracy - before.accuracy
    assert gain.test is None
    assert p_value(gain) == "-"


def test_right_and_wrong_get_wilson_and_mcnemar() -> None:
    records = [record(i, correct=i < 20) for i in range(40)]
    records += [record(i, "x", correct=i < 30) for i in range(40)]
    summary = summarise(records)
    before, _ = summary.accuracies_of("m", "t", "all")
    assert (before.low, before.high, before.interval) == (*wilson_interval(20, 40), "wilson")
    (gain,) = summary.gains_of("m", "t")
    assert gain.test is not None
    assert (gain.test.gained, gain.test.lost) == (10, 0)
    assert gain.test.p_value == pytest.approx(2 / 1024)


def test_strict_scoring_is_the_headline_where_asked() -> None:
    records = [record(i, strict=i < 10, score=1.0) for i in range(40)]
    summary = summarise(records, scoring="strict", metrics={"t": mean})
    (accuracy,) = summary.accuracies_of("m", "t", "all")
    assert (accuracy.accuracy, accuracy.correct) == (0.25, 10)
    assert (accuracy.reference_accuracy, accuracy.strict_accuracy) == (1, 0.25)
    assert summary.metrics[0].value == 0.25
    assert summary.calibrations[0].expected_error == pytest.approx(0.9 - 0.25)
    assert summarise(records).accuracies[0].accuracy == 1
    with pytest.raises(ConfigError, match="did you mean 'strict'"):
        summarise(records, scoring="stric")  # type: ignore[arg-type]


def test_a_question_that_one_method_could_not_be_asked_counts_for_none() -> None:
    records = [record(i, correct=i != 1) for i in range(5)]
    records += [record(i, "x") for i in range(4)]
    records[1] = failed(records[1], "image 1.png is not an image")
    summary = summarise(records)
    assert [a.questions for a in summary.accuracies_of("m", "t", "all")] == [3, 3]
    assert {a.accuracy for a in summary.accuracies} == {1}
    assert {item.reason: item.questions for item in summary.left_out} == {
        "could not be asked": 1,
        "not answered under every method": 1,
    }
    with pytest.raises(DataError, match="No question was answered"):
        summarise([failed(record(0), "broken")])


def test_branches() -> None:
    records = [record(i, correct=i < 4) for i in range(10)]
    for i in range(10):
        alpha = 0.5 if i < 6 else 1.5
        records.append(record(i, "x", alpha=alpha, correct=i < 5, applied=i != 9))
    found = {(b.alpha, b.applied): b for b in summarise(records).branches if b.method == "x"}
    assert set(found) == {(0.5, True), (1.5, True), (1.5, False)}
    low = found[0.5, True]
    assert (low.questions, low.share) == (6, 0.6)
    assert low.accuracy == pytest.approx(5 / 6)
    assert low.first_accuracy == pytest.approx(4 / 6)


def test_relations_are_a_grouping_unless_they_are_the_category() -> None:
    records = [record(i, tags={"relation": ("left", "on")[i % 2]}) for i in range(6)]
    assert len(summarise(records).accuracies_of("m", "t", "relation")) == 2
    same = [record(i, category="on", tags={"relation": "on"}) for i in range(6)]
    assert summarise(same).accuracies_of("m", "t", "relation") == []


def test_the_file_gives_the_summary_back(tmp_path: Path) -> None:
    records = [record(i, image_id="one", confidence=None if i else 0.4) for i in range(5)]
    records += [record(i, "x", image_id="one", correct=i > 1) for i in range(6)]
    summary = summarise(records, metrics={"t": mean})
    assert summary.metrics
    assert summary.left_out
    write_summary(summary, tmp_path, run={"seed": 0}, engines={"m": {"torch": "2"}})
    assert read_summary(tmp_path) == (summary, {"m": {"torch": "2"}})


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finish the run"):
        read_summary(tmp_path)
    path = tmp_path / "summary.json"
    for content in ("{", "[]", '{"accuracies": [], "gains": [], "engines": {}}'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"summary\.json is not"):
            read_summary(tmp_path)
    write_summary(summarise([record(0)]), tmp_path, run={}, engines={})
    stored = json.loads(path.read_text())
    stored["accuracies"][0]["unheard_of"] = 1
    path.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="this version"):
        read_summary(tmp_path)


def test_parts_with_different_image_processors_are_named() -> None:
    one = {"image_processor": "CLIPImageProcessorPil", "torch": "2.13, 2.14"}
    assert mixed_image_processors({"m": one, "other": {}}) == []
    both = {"image_processor": "CLIPImageProcessor, CLIPImageProcessorPil"}
    (sentence,) = mixed_image_processors({"m": one, "n": both})
    assert "n was asked with CLIPImageProcessor, CLIPImageProcessorPil" in sentence
