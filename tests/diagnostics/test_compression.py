"""Pooling against means by hand; compressed models against embeddings put together by hand."""

import math

import numpy as np
import pytest
import torch
from diagnostics.conftest import Stop, family_engine, raw_query, stop, unchanged
from hf.helpers import image
from hf.tiny_families import FAMILIES

from adaptvis.config import ScalingVis
from adaptvis.diagnostics.compressed import compressed, default_sizes, grid_side, pool_square
from adaptvis.diagnostics.compression import study_compression
from adaptvis.diagnostics.results import write_result
from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Sample, Task

ONE_GRID = tuple(f for f in FAMILIES if f in ("adaptvis_llava", "gemma3", "llava", "paligemma"))


def test_pooling_a_small_grid_by_hand() -> None:
    grid = torch.arange(16.0).reshape(16, 1)
    assert pool_square(grid, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_square(grid, 1).item() == 7.5
    assert torch.equal(pool_square(grid, 16), grid)


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 7])
def test_pooling_a_side_that_does_not_divide(wanted: int) -> None:
    features = np.random.default_rng(0).normal(size=(7, 7, 5))
    expected = [
        features[
            math.floor(i * 7 / wanted) : math.ceil((i + 1) * 7 / wanted),
            math.floor(j * 7 / wanted) : math.ceil((j + 1) * 7 / wanted),
        ].mean(axis=(0, 1))
        for i in range(wanted)
        for j in range(wanted)
    ]
    pooled = pool_square(torch.tensor(features.reshape(49, 5)).float(), wanted**2)
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-6)


def test_sizes_below_the_grid() -> None:
    assert default_sizes(24) == (256, 64, 16, 1)
    assert default_sizes(16) == (64, 16, 4, 1)
    assert default_sizes(7) == (16, 4, 1)
    assert default_sizes(1) == ()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [25, 4, 1])
def test_answers_are_those_of_embeddings_put_together_by_hand(
    shortcut: HFEngine, samples: list[Sample], tokens: int
) -> None:
    model = shortcut.model
    with compressed(shortcut, 7, tokens) as shorter:
        found = shorter.answer([s.query() for s in samples], [None], max_new_tokens=1)[0]
    for sample, answer in zip(samples, found, strict=True):
        inputs = shortcut.encode([sample.query()])
        ids = inputs["input_ids"][0]
        (first, *_), last = torch.where(ids == model.config.image_token_id)[0], None
        last = int(first) + 49
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        grid = features.pooler_output[0].reshape(7, 7, -1).permute(2, 0, 1)
        pooled = torch.nn.functional.adaptive_avg_pool2d(grid, math.isqrt(tokens))
        words = model.get_input_embeddings()(ids)
        embeds = torch.cat([words[:first], pooled.flatten(1).T, words[last:]])[None]
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        probabilities = model.lm_head(hidden[0, -1]).softmax(dim=-1)
        assert answer.token_ids[0] == int(probabilities.argmax())
        assert answer.confidence == pytest.approx(float(probabilities.max()), abs=1e-4)


def test_every_token_kept_answers_as_before(shortcut: HFEngine, samples: list[Sample]) -> None:
    queries = [sample.query() for sample in samples]
    configs = [None, ScalingVis(alpha=2.0)]
    with compressed(shortcut, 7, 49) as whole:
        kept = whole.answer(queries, configs)
    for after, before in zip(kept, shortcut.answer(queries, configs), strict=True):
        assert [a.token_ids for a in after] == [b.token_ids for b in before]


@pytest.mark.parametrize("family", ONE_GRID)
def test_batches_of_unequal_prompts_answer_as_each_alone(family: str) -> None:
    engine = family_engine(family)
    queries = [
        raw_query(family, f"<image> {text}", [image(i)])
        for i, text in enumerate(("where is the cat", "what is left of the dog in the image"))
    ]
    side = grid_side(engine, queries[0])
    with compressed(engine, side, 1) as shorter:
        together = shorter.answer(queries, [None, ScalingVis(alpha=0.5)], max_new_tokens=3)
        for index, query in enumerate(queries):
            alone = shorter.answer([query], [None, ScalingVis(alpha=0.5)], max_new_tokens=3)
            for config in range(2):
                assert alone[config][0].token_ids == together[config][index].token_ids


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ONE_GRID)))
def test_tiles_and_shapes_that_vary_are_refused(family: str) -> None:
    engine = family_engine(family)
    with pytest.raises(UnsupportedError, match="one square grid of tokens per image"):
        grid_side(engine, raw_query(family, "<image> where is the cat", [image(0)]))


def test_study_compares_in_pairs_and_says_what_it_left_out(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample], tmp_path
) -> None:
    result = study_compression(
        shortcut, two_ds, samples, variants={"itself": lambda: shortcut}, batch_size=12
    )
    assert list(result.pooled) == [16, 4, 1]
    assert result.left_out == (256, 64)
    assert "256, 64" in result.reading()
    (own, *_) = result.variants["itself"]
    assert (own.drop, own.changed) == (0, own.original)
    assert result.variant_tokens == {"itself": 49}
    with compressed(shortcut, 7, 4) as shorter:
        answers = shorter.answer([s.query() for s in samples], [None])[0]
    right = [two_ds.grade(s, a.text).correct for s, a in zip(samples, answers, strict=True)]
    assert result.pooled[4][0].changed == pytest.approx(sum(right) / len(right))
    (finding,) = result.findings()
    assert finding.holds is None
    write_result(result, tmp_path)


@pytest.mark.parametrize(
    ("sizes", "words"), [((10,), "square numbers"), ((64, 256), "none of the sizes 64, 256")]
)
def test_sizes_that_cannot_be_are_refused(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample], sizes: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        study_compression(shortcut, two_ds, samples, sizes=sizes)


def test_nothing_is_left_on_the_model(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample], fails: bool
) -> None:
    with unchanged(shortcut):
        if fails:
            with pytest.raises(Stop), compressed(shortcut, 7, 1):
                stop()
        else:
            study_compression(shortcut, two_ds, samples[:2], sizes=(1,))
