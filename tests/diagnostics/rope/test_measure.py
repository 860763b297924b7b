"""The RoPE probe over questions, and what its result says."""

import dataclasses
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diagnostics.helpers import TinyEngine
from hf.helpers import image
from hf.tiny_families import HIDDEN

from adaptvis.config import Amplify, NormRescale, ScalingVis
from adaptvis.diagnostics.clustered import ClusteredMean
from adaptvis.diagnostics.results import write_result
from adaptvis.diagnostics.rope.measure import measure_rope, probe_prompt
from adaptvis.errors import ConfigError, DataError
from adaptvis.hf.patch import steer
from adaptvis.steering.directions import write_directions
from adaptvis.tasks import Sample


def one(seed: int):
    return (image(seed, 56, 56),)


SAMPLES = [
    Sample(
        id=f"q{i}",
        prompt="where is the red cat",
        images=partial(one, i),
        gold=("left",),
        category="",
        image_id=f"image{i}",
    )
    for i in range(4)
]


def test_means_over_questions() -> None:
    engine = TinyEngine("gemma3")
    result = measure_rope(engine, SAMPLES, steps=0.5)
    changes = [
        np.stack([layer.change.numpy() for layer in probe_prompt(engine, s.query(), steps=0.5)])
        for s in SAMPLES
    ]
    np.testing.assert_allclose(result.change.value, np.mean(changes, axis=0), atol=1e-12)
    assert result.overall_change.estimate()["value"] == pytest.approx(np.abs(changes).mean())
    assert result.images == result.questions == 4


def test_the_theory_is_judged_at_a_small_step_whatever_step_is_shown() -> None:
    engine = TinyEngine("llava")
    whole = measure_rope(engine, SAMPLES)
    assert whole.determination is not None
    assert whole.judged_steps == 0.05
    small = measure_rope(engine, SAMPLES, steps=0.05)
    np.testing.assert_array_equal(whole.judged_change.value, small.change.value)
    np.testing.assert_array_equal(whole.judged_prediction.value, small.predicted.value)
    assert whole.judged_determination == small.determination == small.judged_determination
    assert whole.judged_determination > 0.95 > whole.determination
    # Too few images.
    assert whole.findings()[0].holds is None
    many = dataclasses.replace(whole, images=20)
    assert many.findings()[0].holds is True
    assert "at 0.05 positions" in many.findings()[0].measured
    assert "at 1 position, where a theory of first order is not judged" in (
        many.findings()[0].measured
    )
    wrong = dataclasses.replace(many, judged_prediction=whole.share)
    assert wrong.findings()[0].holds is False
    assert measure_rope(engine, SAMPLES[:1], steps=-2).judged_steps == -0.05
    assert measure_rope(engine, SAMPLES[:1], steps=0.01).judged_steps == 0.01


def test_questions_without_an_image_are_left_out_and_counted() -> None:
    engine = TinyEngine("llava")
    blind = dataclasses.replace(SAMPLES[0], images=tuple)
    found = measure_rope(engine, [blind, *SAMPLES[:2]], settings={"questions": 3})
    wanted = measure_rope(engine, SAMPLES[:2])
    np.testing.assert_array_equal(found.change.value, wanted.change.value)
    assert (found.questions, found.settings["questions"]) == (2, 2)
    assert found.settings["questions without an image"] == 1
    assert "1 question(s) without an image are left out" in found.reading()
    with pytest.raises(DataError, match="None of the 1 questions has an image"):
        measure_rope(engine, [blind])


def test_r_squared_by_hand() -> None:
    result = measure_rope(TinyEngine("llava"), SAMPLES[:2])

    def fixed(*values: float) -> ClusteredMean:
        return ClusteredMean(np.array([values]), np.zeros((1, len(values))))

    # Deviations from the mean 2: 1 + 0 + 1; errors of the prediction: 0 + 0 + 0.25.
    changed = dataclasses.replace(result, change=fixed(1, 2, 3), predicted=fixed(1, 2, 3.5))
    assert changed.determination == pytest.approx(1 - 0.25 / 2)
    equal = dataclasses.replace(result, judged_change=fixed(1, 1), judged_prediction=fixed(1, 1))
    assert equal.judged_determination is None
    assert equal.findings()[0].holds is None


def test_results_are_written(tmp_path) -> None:
    result = measure_rope(TinyEngine("qwen2_vl"), SAMPLES, config=NormRescale(target=4.0))
    paths = write_result(result, tmp_path)
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    record = json.loads(paths["json"].read_text())
    assert record["settings"]["steps"] == 1
    assert record["settings"]["steering"]["target"] == 4
    layers, heads = result.change.value.shape
    assert pq.read_table(paths["parquet"]).num_rows == 6 * layers * heads


def test_amplified_and_patched_models_are_probed_as_they_are_and_say_so(tmp_path) -> None:
    engine = TinyEngine("llava")
    vectors = {"horizontal": torch.arange(float(HIDDEN)), "vertical": torch.ones(HIDDEN)}
    path = write_directions(tmp_path / "directions.safetensors", vectors, {})
    config = Amplify(directions=path, alpha=6.0)
    plain = measure_rope(engine, SAMPLES[:2])
    amplified = measure_rope(engine, SAMPLES[:2], config=config)
    with steer(engine.model, [ScalingVis(alpha=3), config]):
        patched = measure_rope(engine, SAMPLES[:2])
    assert not np.allclose(plain.share.value, amplified.share.value, atol=1e-3)
    # Coefficients on logits are none of the probe's business, also where they are patched in.
    np.testing.assert_array_equal(patched.change.value, amplified.change.value)
    assert plain.settings["steering"] is None
    assert amplified.settings["steering"]["method"] == "amplify"
    assert patched.settings["steering"]["method"] == "amplify"
    assert patched.settings["steering left out"]["method"] == "scalingvis"


def test_what_cannot_be_probed_is_refused() -> None:
    engine = TinyEngine("llava")
    for steps in (0.0, float("nan")):
        with pytest.raises(ConfigError, match="steps must be"):
            measure_rope(engine, SAMPLES, steps=steps)
    with pytest.raises(ConfigError, match="scalingvis multiplies them"):
        measure_rope(engine, SAMPLES, config=ScalingVis(alpha=2))
    with pytest.raises(DataError, match="no question"):
        measure_rope(engine, [])
