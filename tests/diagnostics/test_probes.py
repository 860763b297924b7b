"""Probes and directions of the embedded model, and amplification with them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diagnostics.tiny import tiny_engine
from safetensors import safe_open

from adaptvis import Amplify
from adaptvis.data.relation_pairs import relation_pairs
from adaptvis.data.three_objects import all_items
from adaptvis.diagnostics.amplification import (
    AmplificationResult,
    Curve,
    measure_amplification,
)
from adaptvis.diagnostics.probes import measure_probes
from adaptvis.diagnostics.results import write_result
from adaptvis.errors import ConfigError, DataError
from adaptvis.steering.directions import read_directions
from adaptvis.tasks import get_task
from adaptvis.tasks.generated import task_samples


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "directions.safetensors"
    return measure_probes(tiny_engine(), directions=path), path


def test_places_are_linear_in_object_tokens_and_shuffled_labels_are_not(measured):
    result, _ = measured
    by_series = {(p.axis, p.series): p for p in result.probes}
    for axis in ("horizontal", "vertical"):
        best, control = by_series[axis, "least squares"], by_series[axis, "shuffled labels"]
        # 120 pictures of three objects of one token; a quarter of the pictures is unseen.
        assert (best.training_tokens, best.tokens, best.images) == (270, 90, 30)
        assert best.low > control.high
        assert best.recall == pytest.approx((1, 1, 1), abs=0.1)
    # The published procedure and what is readable are two claims with two answers.
    found = result.findings()
    assert [finding.holds for finding in found] == [False, True, False, True]
    assert ["published procedure" in finding.claim for finding in found] == [True, False] * 2
    assert ["by least squares" in finding.claim for finding in found] == [False, True] * 2
    few = replace(result, probes=tuple(replace(p, images=19) for p in result.probes))
    assert [finding.holds for finding in few.findings()] == [None] * 4


def test_directions_separate_the_ends_of_pictures_that_the_model_sees(measured):
    result, path = measured
    vectors = read_directions(path)
    assert list(vectors) == ["horizontal", "vertical"]
    engine = tiny_engine()
    # Projected by the model's own method: the object on the right lies further along.
    from adaptvis.diagnostics.three_object_questions import Questions

    layout = Questions.for_model(engine).layout
    right = 0
    for item in all_items("squares")[::16]:
        pixels = engine.processor.image_processor(item.image(layout), return_tensors="pt")
        with torch.inference_mode():
            tokens = engine.model.model.get_image_features(**pixels).pooler_output[0]
        first, last = (22, 26) if item.axis == "horizontal" else (10, 38)
        along = tokens @ vectors[item.axis]
        right += bool(along[last] > along[first])
    assert right >= 29
    with safe_open(path, "pt") as stored:
        metadata = json.loads(stored.metadata()["adaptvis"])
    assert (metadata["kind"], metadata["training"]) == ("squares", "least_squares")
    assert [fit["questions"] for fit in metadata["fits"]] == [fit.questions for fit in result.fits]
    assert all(fit.questions > 230 for fit in result.fits)


def test_probes_are_written_and_read_well(measured, tmp_path):
    result, _ = measured
    paths = write_result(result, tmp_path)
    record = json.loads(paths["json"].read_text())
    assert record["summary"]["horizontal"]["least squares"]["accuracy"] > 0.9
    assert len(result.rows()) == 6
    assert paths["png"].stat().st_size > 10_000


def test_a_model_without_right_answers_keeps_its_probes(monkeypatch, tmp_path):
    import adaptvis.diagnostics.probes as probes

    # Always the first thing: one end is never answered rightly.
    monkeypatch.setattr(
        probes, "_answered_rightly", lambda questions, items, *_: [i.asks_first for i in items]
    )
    path = tmp_path / "directions.safetensors"
    path.write_bytes(b"of an earlier run")
    result = measure_probes(tiny_engine(), directions=path)
    assert len(result.probes) == 6
    assert not path.exists()
    assert not result.directions
    assert "horizontal questions are answered rightly" in result.without_directions
    assert "no direction to fit" in result.reading()
    record = json.loads(write_result(result, tmp_path)["json"].read_text())
    assert "no direction to fit" in record["summary"]["directions"]


def test_no_directions_are_fitted_where_none_are_wanted():
    result = measure_probes(tiny_engine())
    assert not result.fits
    assert "Directions for amplification" not in result.reading()


def test_relations_are_asked_both_ways_about_one_picture():
    samples = relation_pairs("test", 12)
    assert [s.answer for s in samples] == ["yes", "no"] * 12
    assert len({s.image_id for s in samples}) == 12
    for held, opposite in zip(samples[::2], samples[1::2], strict=True):
        pairs = {("left", "right"), ("right", "left"), ("above", "below"), ("below", "above")}
        differ = [
            (a, b)
            for a, b in zip(held.question.split(), opposite.question.split(), strict=True)
            if a != b
        ]
        assert len(differ) == 1
        assert differ[0] in pairs
    assert [s.question for s in relation_pairs("test", 12)] == [s.question for s in samples]
    with pytest.raises(DataError, match="at least 1, got 0"):
        relation_pairs("test", 0)


def test_amplification_is_measured_beside_its_control(measured, tmp_path):
    _, path = measured
    engine = tiny_engine()
    samples = task_samples(relation_pairs("validation", 4))
    items = [sample.image_id for sample in samples]
    result = measure_amplification(
        engine,
        path,
        get_task("2ds"),
        samples,
        items=items,
        alphas=[4, 90],
        controls=1,
        batch_size=3,
    )
    assert result.alphas == (0, 4, 90)
    assert [curve.directions for curve in result.curves] == ["probe", "random 0"]
    control = path.with_name("directions-random-0.safetensors")
    for curve, file in zip(result.curves, (path, control), strict=True):
        for index, config in enumerate([None, Amplify(directions=file, alpha=90)]):
            answers = engine.answer([s.query() for s in samples], [config])[0]
            right = [a.text == s.gold[0] for a, s in zip(answers, samples, strict=True)]
            both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
            assert curve.points[2 * index].tolist() == both
    paths = write_result(result, tmp_path)
    record = json.loads(paths["json"].read_text())
    assert record["settings"]["questions_per_item"] == 2
    # Two yes/no questions that must both be right.
    assert record["summary"]["chance"] == 0.25
    assert len(result.rows()) == 6


def made(probe, *controls):
    curves = (Curve("probe", np.array(probe, float)),)
    curves += tuple(Curve(f"random {n}", np.array(c, float)) for n, c in enumerate(controls))
    images = tuple(f"image {n}" for n in range(len(probe[0])))
    return AmplificationResult({}, {}, alphas=(0, 1, 2), curves=curves, images=images)


def test_corrected_and_broken_items_by_hand():
    # Items: wrong throughout; corrected at alpha 2; right throughout; broken at alpha 1.
    probe = [[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1]]
    control = [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    result = made(probe, control)
    assert result.curves[0].corrected.tolist() == [0, 1]
    assert result.curves[0].broken.tolist() == [0, 0.5]
    assert result.curves[1].corrected.tolist() == [0, 0]
    assert result.curves[1].broken.tolist() == [0.5, 1]
    gain = result.corrected_gain()
    assert (gain.mean, gain.questions) == (0.5, 2)
    summary = result.summary()
    assert (summary["failures"], summary["best_alpha_on_these_items"]) == (2, 2)
    assert summary["accuracy_there"] == 0.75


def test_findings_need_failures_pictures_and_an_interval_on_one_side():
    right = [[1] * 40] * 3
    assert [f.holds for f in made(right, right).findings()] == [None, False]
    wrong = [[0] * 40] * 3
    better = [[0] * 40, [1] * 40, [1] * 40]
    assert [f.holds for f in made(better, wrong).findings()] == [True, True]
    assert [f.holds for f in made(wrong, better).findings()] == [False, False]
    few = [[0] * 5, [1] * 5, [1] * 5]
    assert [f.holds for f in made(few, [[0] * 5] * 3).findings()] == [None, None]


class _Fails:
    """An engine whose every question fails."""

    name = "made"

    def answer(self, queries, configs, *, max_new_tokens=16):
        raise ValueError("no such token")

    def describe(self):
        return {"model": "made"}


def test_what_cannot_be_measured_is_refused(measured):
    _, path = measured
    samples = task_samples(relation_pairs("test", 1))
    task = get_task("2ds")
    with pytest.raises(DataError, match="cannot be asked: ValueError: no such token"):
        measure_amplification(_Fails(), path, task, samples, alphas=[1], controls=0)
    with pytest.raises(DataError, match="no questions to answer"):
        measure_amplification(tiny_engine(), path, task, [])
    with pytest.raises(ConfigError, match="one alpha or more"):
        measure_amplification(tiny_engine(), path, task, samples, alphas=[])
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        measure_amplification(tiny_engine(), path, task, samples, alphas=[0])


def test_a_steered_model_is_probed_as_it_is_steered(measured):
    from adaptvis import NormRescale
    from adaptvis.diagnostics.residual_stream import image_embeddings
    from adaptvis.hf.patch import steer

    engine = tiny_engine()
    seen = []
    config = NormRescale(target=2.0)
    result = measure_probes(engine, config=config, progress=lambda *at: seen.append(at))
    assert result.settings["steering"] == config.to_dict()
    assert result.rows() != measured[0].rows()
    with steer(engine.model, config):
        (tokens,) = image_embeddings(engine, [samples_image()], 1)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.full((49,), 2.0))
    assert "generate" not in engine.model.__dict__


def samples_image():
    return task_samples(relation_pairs("test", 1))[0].images()[0]
