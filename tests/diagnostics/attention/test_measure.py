"""The attention instrument over questions, and what its result says."""

import dataclasses
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diagnostics.helpers import TinyEngine, full_matrices
from hf.helpers import image

from adaptvis.config import NormRescale, ScalingVis
from adaptvis.diagnostics.attention.capture import attend
from adaptvis.diagnostics.attention.comparison import compare_entropy
from adaptvis.diagnostics.attention.maps import measure_attention_maps
from adaptvis.diagnostics.attention.measure import measure_attention
from adaptvis.diagnostics.attention.parts import LAST_ROW, TEXT_ROWS
from adaptvis.diagnostics.attention.result import MEASURES
from adaptvis.diagnostics.clustered import ClusteredMean, Separation
from adaptvis.diagnostics.results import write_result
from adaptvis.engine import Answer
from adaptvis.errors import ConfigError, DataError
from adaptvis.hf.patch import steer
from adaptvis.tasks import Sample, Task

PROMPTS = ("where is the red cat", "what is left of the dog", "is the cat right of the dog")


def one(seed: int):
    return (image(seed, 56, 56),)


def samples(boxes: bool = True) -> list[Sample]:
    """Six questions about three images; the asked object is the left half."""
    return [
        Sample(
            id=f"q{i}",
            prompt=PROMPTS[i % 3],
            images=partial(one, i // 2),
            gold=("yes" if i % 2 else "no",),
            category="",
            image_id=f"image{i // 2}",
            asked_boxes=((0.0, 0.0, 0.5, 1.0),) if boxes else (),
        )
        for i in range(6)
    ]


class Answering(TinyEngine):
    """The tiny model's attention, and answers that are right for every second question."""

    def answer(self, queries, configs, *, max_new_tokens=16):
        return [[Answer("yes", (0,), 0.5, 1.0, False) for _ in queries] for _ in configs]


TASK = Task("mine", "", lambda part: samples())


def test_means_over_questions_of_full_matrices() -> None:
    engine = Answering("llava")
    result = measure_attention(engine, TASK, samples(), config=ScalingVis(alpha=2))
    assert result.steerings == ("unsteered", "scalingvis")
    shares, masses = [], []
    for sample in samples():
        inputs = engine.encode([sample.query()])
        columns = inputs["input_ids"][0] == engine.model.config.image_token_id
        last = torch.stack([matrix[:, -1] for matrix in full_matrices(engine, inputs)])
        shares.append(last[:, :, columns].sum(-1).numpy())
        grid = last[:, :, columns].mean(1).reshape(-1, 7, 7)
        # Seven columns: the object covers three and a half.
        mass = grid[:, :, :3].sum((1, 2)) + grid[:, :, 3].sum(1) / 2
        masses.append((mass / grid.sum((1, 2))).numpy())
    found = result.row()
    np.testing.assert_allclose(found.heads["image"].value, np.mean(shares, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.layers["image"].value, np.mean(shares, axis=(0, 2)), atol=1e-5)
    assert found.overall["image"].estimate()["value"] == pytest.approx(np.mean(shares), abs=1e-5)
    assert result.covered == pytest.approx(0.5)
    (plain, _) = result.overlap
    right = np.array([bool(i % 2) for i in range(6)])
    np.testing.assert_allclose(plain.right.value, np.array(masses)[right].mean(0), atol=1e-5)
    for layer, separation in enumerate(plain.separation):
        scores = np.array(masses)[:, layer]
        pairs = [r > w for r in scores[right] for w in scores[~right]]
        assert separation.value == pytest.approx(np.mean(pairs))
        assert (separation.right, separation.wrong) == (3, 3)


def test_words_are_averaged_over_the_prompts_that_have_them() -> None:
    engine = Answering("llava")
    result = measure_attention(engine, TASK, samples(boxes=False), words=("cat", "left"))
    assert result.overlap == ()
    assert result.row("cat").questions == 4
    assert result.row("left").questions == 2
    looks = [attend(engine, s.query(), words=("left",))[0] for s in samples()]
    entropies = [look.entropy[:, look.rows["left"]] for look in looks if "left" in look.rows]
    wanted = np.mean(entropies, axis=0)
    np.testing.assert_allclose(result.row("left").heads["entropy"].value, wanted, atol=1e-6)
    with pytest.raises(DataError, match=r"No prompt contains 'zebra'.*where is the red cat"):
        measure_attention(engine, TASK, samples(), words=("cat", "zebra"))
    with pytest.raises(DataError, match="no question"):
        measure_attention(engine, TASK, [])


def test_results_are_written(tmp_path) -> None:
    engine = Answering("qwen2_vl")
    config = ScalingVis(alpha=2, rows="text_after_image")
    result = measure_attention(engine, TASK, samples(), config=config, words=("cat",))
    maps = measure_attention_maps(engine, samples()[:2], config=config, words=("cat",), layers=(1,))
    for found in (result, maps):
        paths = write_result(found, tmp_path)
        assert paths["png"].read_bytes().startswith(b"\x89PNG")
        record = json.loads(paths["json"].read_text())
        assert record["settings"]["steering"]["alpha"] == 2
        assert record["reading"]
    table = pq.read_table(tmp_path / "attention.parquet").to_pylist()
    layers, heads = result.row().heads["cmb"].value.shape
    rows = 2 * 3 * len(MEASURES) * layers * (heads + 1)
    assert len(table) == rows + 2 * layers * 3
    cell = next(
        r
        for r in table
        if (r["steering"], r["row"], r["measure"], r["layer"], r["head"])
        == ("scalingvis", TEXT_ROWS, "cmb", 2, 1)
    )
    assert cell["value"] == pytest.approx(
        result.row(TEXT_ROWS, "scalingvis").heads["cmb"].value[2, 1]
    )
    assert len(maps.examples) == 2
    tokens = pq.read_table(tmp_path / "attention_maps.parquet").to_pylist()
    of_first = [r for r in tokens if r["id"] == "q0" and r["steering"] == "unsteered"]
    last = [r for r in of_first if r["row"] == LAST_ROW]
    share = attend(engine, samples()[0].query())[0].weights[1, 0].sum()
    assert sum(r["weight"] for r in last) == pytest.approx(float(share), abs=1e-5)


def test_what_a_model_is_patched_with_is_recorded_and_shown_beside_the_unsteered() -> None:
    engine = Answering("llava")
    plain = measure_attention(engine, TASK, samples())
    assert plain.settings["steering"] is None
    with steer(engine.model, [ScalingVis(alpha=3), NormRescale(target=30.0)]):
        patched = measure_attention(engine, TASK, samples())
        maps = measure_attention_maps(engine, samples()[:1])
    for found in (patched, maps):
        assert [one["method"] for one in found.settings["steering"]] == [
            "scalingvis",
            "norm_rescale",
        ]
    assert patched.steerings == ("unsteered", "scalingvis + norm_rescale")
    assert [overlap.steering for overlap in patched.overlap] == list(patched.steerings)
    unsteered = patched.row().overall["image"].estimate()
    assert unsteered == plain.row().overall["image"].estimate()
    steered = patched.row(steering=patched.steerings[1]).overall["image"].estimate()
    assert steered["value"] != pytest.approx(unsteered["value"], abs=1e-3)
    assert list(maps.examples[0].maps) == [(LAST_ROW, name) for name in patched.steerings]


def test_wrong_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 layers, counted from 0; got 3"):
        measure_attention_maps(TinyEngine("llava"), samples(), layers=(3,))


def test_questions_without_an_image_are_left_out_and_counted() -> None:
    blind = [dataclasses.replace(s, images=tuple) for s in samples()]
    mixed = [blind[0], *samples()[1:4], *blind[4:]]
    engine = Answering("llava")
    wanted = measure_attention(engine, TASK, samples()[1:4], settings={"questions": 6})
    found = measure_attention(engine, TASK, mixed, settings={"questions": 6})
    assert found.settings["questions"] == 3
    assert found.settings["questions without an image"] == 3
    assert "3 question(s) without an image are left out" in found.reading()
    assert "without an image" not in wanted.reading()
    assert found.row().overall["image"].estimate() == wanted.row().overall["image"].estimate()
    assert found.overlap[0].separation == wanted.overlap[0].separation
    maps = measure_attention_maps(engine, mixed[:2])
    assert [example.id for example in maps.examples] == ["q1"]
    assert "1 question(s) without an image" in maps.reading()
    for measure in (
        lambda: measure_attention(engine, TASK, blind),
        lambda: measure_attention_maps(engine, blind),
    ):
        with pytest.raises(DataError, match="None of the 6 questions has an image"):
            measure()


def overall(result, row: str, measure: str, value: float, half: float):
    """The result with another mean of one measure."""
    means = []
    for one_row in result.means:
        if one_row.row == row:
            changed = ClusteredMean(np.array(value), np.array(half))
            one_row = dataclasses.replace(one_row, overall={**one_row.overall, measure: changed})
        means.append(one_row)
    return dataclasses.replace(result, means=tuple(means), images=100)


def test_findings_are_judged_by_their_intervals() -> None:
    plain = measure_attention(Answering("llava"), TASK, samples())
    # Three images decide nothing.
    assert [f.holds for f in plain.findings()] == [None, None, None]
    tokens = plain.tokens["image"]
    for value, half, holds in (
        (0.1, 0.01, True),
        # Less than the tokens' part, but not far less.
        (tokens - 0.006, 0.001, False),
        (tokens / 2, 0.1, None),
        (0.99, 0.001, False),
    ):
        share = overall(plain, LAST_ROW, "image", value, half).findings()[0]
        assert share.holds is holds
    # The tiny model's template has no system prompt: there is nothing to judge.
    assert plain.tokens["system"] == 0
    assert overall(plain, LAST_ROW, "system", 0.3, 0.1).findings()[1].holds is None
    plain = dataclasses.replace(plain, tokens={**plain.tokens, "system": 0.1})
    for value, half, holds in ((0.72, 0.1, True), (0.5, 0.1, None), (0.3, 0.1, False)):
        assert overall(plain, LAST_ROW, "system", value, half).findings()[1].holds is holds
    best = Separation(0.9, 0.1, 50, 50)
    for changed, holds in (
        (best, True),
        (dataclasses.replace(best, wrong=9), None),
        # At 95 % by itself, but not as the best of three layers.
        (dataclasses.replace(best, value=0.61), None),
        (dataclasses.replace(best, value=0.55, half=0.05), False),
        (dataclasses.replace(best, value=0.52, half=0.4), None),
        (dataclasses.replace(best, value=0.5, half=0.05), False),
        # More than chance, and far from the published separation.
        (dataclasses.replace(best, value=0.6, half=0.01), None),
        (dataclasses.replace(best, half=float("inf")), None),
    ):
        others = Separation(0.4, 0.1, 50, 50), Separation(0.3, 0.1, 50, 50)
        overlap = dataclasses.replace(plain.overlap[0], separation=(others[0], changed, others[1]))
        finding = dataclasses.replace(plain, overlap=(overlap,), images=100).findings()[2]
        assert finding.holds is holds, finding
        assert "layer 1" in finding.measured
    unsure = Separation(0.4, 0.4, 50, 50)
    overlap = dataclasses.replace(
        plain.overlap[0], separation=(unsure, dataclasses.replace(best, value=0.5, half=0.05))
    )
    # The claim is about any layer: one that may reach the line leaves it open.
    assert dataclasses.replace(plain, overlap=(overlap,), images=100).findings()[2].holds is None


def with_entropies(result, values: dict[str, float], images: int = 20):
    """The result as of these questions, two per image, with these entropies of text rows."""
    entropies = tuple((id_, f"image{i % images}", v) for i, (id_, v) in enumerate(values.items()))
    means = overall(result, TEXT_ROWS, "entropy", float(np.mean(list(values.values()))), 0.5)
    return dataclasses.replace(means, text_entropies=entropies)


def test_entropies_of_questions_are_kept_for_comparisons() -> None:
    plain = measure_attention(Answering("llava"), TASK, samples(boxes=False))
    assert [(id_, image_id) for id_, image_id, _ in plain.text_entropies] == [
        (s.id, s.image_id) for s in samples()
    ]
    mean = plain.row(TEXT_ROWS).overall["entropy"].estimate()["value"]
    assert np.mean([value for _, _, value in plain.text_entropies]) == pytest.approx(mean)


def test_the_entropy_order_is_judged_by_paired_differences_over_20_images() -> None:
    plain = measure_attention(Answering("llava"), TASK, samples(boxes=False))
    hard = np.random.default_rng(0).uniform(0.2, 0.8, 40)

    def variants(normalize: float, multilayer: float, images: int = 20):
        """Questions differ far more than models do."""
        noise = np.random.default_rng(1).normal(0, 0.001, (3, 40))
        shifts = {"my-baseline": 0.0, "my-normalize": normalize, "normalize-multilayer": multilayer}
        return {
            name: with_entropies(
                plain, {f"q{i}": hard[i] + shift + noise[n, i] for i in range(40)}, images
            )
            for n, (name, shift) in enumerate(shifts.items())
        }

    published = compare_entropy(variants(0.02, -0.02))
    # Each interval by itself is .5 wide either way: only pairs can tell.
    assert published.holds is True
    assert "my-normalize 0.5" in published.measured
    order = published.measured.split(";")[0]
    places = [order.index(n) for n in ("my-normalize", "my-baseline", "normalize-multilayer")]
    assert places == sorted(places)
    assert "my-normalize - my-baseline = +0.020 [+0.020, +0.020]" in published.measured
    assert compare_entropy(variants(-0.02, -0.02)).holds is False
    assert compare_entropy(variants(0.02, 0.02)).holds is False
    assert compare_entropy(variants(0.0001, -0.02)).holds is None
    few = compare_entropy(variants(0.02, -0.02, images=19))
    assert few.holds is None
    assert "19 images" in few.measured


def test_entropies_of_any_models_are_ordered_and_only_variants_judged() -> None:
    plain = measure_attention(Answering("llava"), TASK, samples(boxes=False))
    values = {f"q{i}": 0.5 + 0.001 * (i % 7) for i in range(40)}
    low = with_entropies(plain, values)
    high = with_entropies(plain, {k: v + 0.1 for k, v in values.items()})
    found = compare_entropy({"one": low, "other": high})
    assert found.holds is None
    assert found.measured.startswith("average text row: other 0.60 > one 0.50")
    # Only questions that both were asked are compared.
    shifted = with_entropies(plain, {k.replace("q", "r"): v for k, v in values.items()})
    apart = compare_entropy({"baseline": low, "normalize": high, "multilayer": shifted})
    assert apart.holds is None
    assert "no question in common" in apart.measured
