"""Norms against the model's own parts, called one by one in the test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diagnostics.conftest import Stop, stop, unchanged

from adaptvis.config import NormRescale, ScalingVis
from adaptvis.diagnostics.norms import IMAGE, LAST, TABLE, TEXT, NormsResult, measure_norms
from adaptvis.diagnostics.results import write_result
from adaptvis.errors import DataError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Sample


@pytest.fixture(scope="module")
def result(shortcut: HFEngine, samples: list[Sample]) -> NormsResult:
    return measure_norms(shortcut, samples, batch_size=7)


@torch.no_grad()
def test_input_norms_are_those_of_projector_and_table(
    result: NormsResult, shortcut: HFEngine, samples: list[Sample]
) -> None:
    table = shortcut.model.get_input_embeddings().weight.double()
    np.testing.assert_allclose(
        result.inputs[TABLE], (table**2).sum(dim=1).sqrt().numpy(), rtol=1e-6
    )
    image, text = [], []
    for sample in samples:
        inputs = shortcut.encode([sample.query()])
        features = shortcut.model.model.get_image_features(
            inputs["pixel_values"], return_dict=True
        ).pooler_output
        image.append((torch.cat(list(features)).double() ** 2).sum(dim=1).sqrt())
        ids = inputs["input_ids"][0]
        text.append(table[ids[ids != shortcut.model.config.image_token_id]].norm(dim=1))
    np.testing.assert_allclose(np.sort(result.inputs[IMAGE]), np.sort(torch.cat(image)), rtol=1e-5)
    np.testing.assert_allclose(np.sort(result.inputs[TEXT]), np.sort(torch.cat(text)), rtol=1e-5)
    mean = float(np.mean([norms.mean() for norms in image]) / table.norm(dim=1).mean())
    assert result.ratio["value"] == pytest.approx(mean, rel=1e-5)
    assert result.ratio["low"] < mean < result.ratio["high"]


@torch.no_grad()
def test_layer_norms_are_those_of_the_hidden_states(
    result: NormsResult, shortcut: HFEngine, samples: list[Sample]
) -> None:
    found = {(row.layer, row.group): row for row in result.layers}
    depth = shortcut.model.config.text_config.num_hidden_layers
    # What transformers calls the last hidden state has gone through the final norm.
    for layer in range(depth):
        norms: dict[str, list[torch.Tensor]] = {IMAGE: [], TEXT: [], LAST: []}
        for sample in samples:
            inputs = shortcut.encode([sample.query()])
            states = shortcut.model(**inputs, output_hidden_states=True).hidden_states[layer][0]
            image = inputs["input_ids"][0] == shortcut.model.config.image_token_id
            norms[IMAGE].append(states[image].double().norm(dim=1))
            norms[TEXT].append(states[~image].double().norm(dim=1))
            norms[LAST].append(states[-1:].double().norm(dim=1))
        for group, parts in norms.items():
            row, every = found[layer, group], torch.cat(parts)
            assert row.tokens == len(every)
            assert row.mean == pytest.approx(float(every.mean()), rel=1e-4)
            assert row.standard_deviation == pytest.approx(
                float(every.std(correction=0)), rel=1e-3, abs=1e-4
            )
            assert (row.smallest, row.largest) == pytest.approx(
                (float(every.min()), float(every.max())), rel=1e-4
            )
            # To within a step of 1 %, between the two tokens that the quantile falls between.
            for found_one, share in ((row.low, 0.05), (row.high, 0.95)):
                below, above = (
                    float(every.quantile(share, interpolation=side)) for side in ("lower", "higher")
                )
                assert below * 0.98 <= found_one <= above * 1.02
    assert found[depth, LAST].tokens == len(samples)


def test_batches_do_not_matter(
    result: NormsResult, shortcut: HFEngine, samples: list[Sample]
) -> None:
    alone = measure_norms(shortcut, samples, batch_size=1)
    for one, other in zip(alone.layers, result.layers, strict=True):
        assert (one.layer, one.group, one.tokens) == (other.layer, other.group, other.tokens)
        assert one.mean == pytest.approx(other.mean, rel=1e-4)


def test_steering_shows_where_it_acts(
    result: NormsResult, shortcut: HFEngine, samples: list[Sample]
) -> None:
    rescaled = measure_norms(shortcut, samples, config=NormRescale(target=2.5), batch_size=8)
    np.testing.assert_allclose(rescaled.inputs[IMAGE], 2.5, rtol=1e-5)
    assert rescaled.ratio["high"] < 1

    steered = measure_norms(shortcut, samples, config=ScalingVis(alpha=3.0), batch_size=8)
    for before, after in zip(result.layers, steered.layers, strict=True):
        # Only the last prompt row is steered: image tokens stay, and so does the input.
        same = before.group == IMAGE or before.layer == 0
        assert (after.mean == pytest.approx(before.mean, rel=1e-4)) == same, before


def test_nothing_is_left_on_the_model(
    shortcut: HFEngine, samples: list[Sample], fails: bool
) -> None:
    with unchanged(shortcut):
        if fails:
            with pytest.raises(Stop):
                measure_norms(shortcut, samples[:2], progress=stop)
        else:
            measure_norms(shortcut, samples[:2])


def test_prompts_without_images_count_as_text(shortcut: HFEngine, samples: list[Sample]) -> None:
    blind = replace(samples[0], images=tuple, image_id="none")
    alone = measure_norms(shortcut, [samples[1]])
    both = measure_norms(shortcut, [blind, samples[1]])
    np.testing.assert_array_equal(both.inputs[IMAGE], alone.inputs[IMAGE])
    assert len(both.inputs[TEXT]) > len(alone.inputs[TEXT])
    assert both.inputs[TEXT].min() >= both.inputs[TABLE].min()
    assert both.ratio == alone.ratio


def test_questions_without_images_are_refused(shortcut: HFEngine, samples: list[Sample]) -> None:
    blind = [replace(samples[0], images=tuple)]
    with pytest.raises(DataError, match="None of these questions has an image"):
        measure_norms(shortcut, blind)


def test_files_hold_finite_numbers_and_the_gap(result: NormsResult, tmp_path) -> None:
    paths = write_result(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"norms.json", "norms.parquet", "norms.png"}
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    (finding,) = result.findings()
    assert "ratio of means" in finding.measured


@pytest.mark.parametrize(
    ("low", "high", "images", "holds"),
    [
        (10.5, 12.0, 20, True),
        (9.5, 12.0, 20, None),
        (0.9, 1.1, 20, False),
        (10.5, 12.0, 19, None),
        (None, None, 1, None),
    ],
)
def test_the_gap_holds_where_its_interval_is_an_order_of_magnitude(
    result: NormsResult, low: float | None, high: float | None, images: int, holds: bool | None
) -> None:
    ratio = {"value": 11.0, "low": low, "high": high, "images": images}
    (finding,) = replace(result, ratio=ratio).findings()
    assert finding.holds is holds
