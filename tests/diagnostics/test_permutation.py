"""What reaches the decoder when image tokens are shuffled, seen by hooks of the test's own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics.conftest import Stop, family_engine, raw_query, stop, unchanged
from hf.helpers import image
from hf.tiny_families import FAMILIES

from adaptvis.config import ScalingVis
from adaptvis.diagnostics.accuracy import Asked, ask_points, compare
from adaptvis.diagnostics.permutation import (
    PermutationResult,
    permutation_test,
    position_sensitivity,
    shuffled_images,
)
from adaptvis.diagnostics.results import write_result
from adaptvis.engine import Query
from adaptvis.errors import ConfigError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Sample, Task


def entering(engine: HFEngine, queries: list[Query], config: Any = None) -> dict[str, Any]:
    """The decoder's arguments in the prefill, and the mask of image tokens."""
    calls: list[dict[str, Any]] = []
    decoder = engine.family.decoder_of(engine.model)
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    try:
        engine.answer(queries, [config], max_new_tokens=2)
    finally:
        handle.remove()
    ids = engine.encode(queries)["input_ids"]
    return {**calls[0], "image": ids == engine.model.config.image_token_id}


def order_of(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Where each row of ``after`` [N, D] stood in ``before``; every row is found once."""
    order = torch.cdist(after.double(), before.double()).argmin(dim=1)
    torch.testing.assert_close(before[order], after)
    assert sorted(order.tolist()) == list(range(len(before)))
    return order.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_is_shuffled_in_itself(family: str) -> None:
    engine = family_engine(family)
    marks = "<image> " if family == "paligemma" else "<image> left <image> "
    pictures = [image(i) for i in range(marks.count("<image>"))]
    queries = [raw_query(family, f"{marks}where is the cat", pictures)]
    plain = entering(engine, queries)
    with shuffled_images(engine, seed=1):
        mixed = entering(engine, queries)
    mask = plain["image"]
    torch.testing.assert_close(mixed["inputs_embeds"][~mask], plain["inputs_embeds"][~mask])
    before, after = plain["inputs_embeds"][mask], mixed["inputs_embeds"][mask]
    per_image = len(before) // len(pictures)
    for start in range(0, len(before), per_image):
        # Rows, not orders: LLaVA-NeXT's line breaks are equal to each other.
        rows, shuffled = (
            [tuple(row) for row in part[start : start + per_image].tolist()]
            for part in (before, after)
        )
        assert rows != shuffled
        assert sorted(rows) == sorted(shuffled)
    if family == "qwen3_vl":
        whole = order_of(before, after)
        for deeper, shuffled in zip(
            plain["deepstack_visual_embeds"], mixed["deepstack_visual_embeds"], strict=True
        ):
            torch.testing.assert_close(shuffled, deeper[whole])


def test_the_order_depends_on_the_prompt_and_not_on_the_batch() -> None:
    engine = family_engine("llava")
    queries = [
        raw_query("llava", f"<image> {text}", [image(3)])
        for text in ("where is the cat", "what is left of the dog in the image")
    ]

    def orders(asked: list[Query], seed: int = 0, number: int = 0) -> list[list[int]]:
        plain = entering(engine, asked)
        with shuffled_images(engine, seed, number):
            mixed = entering(engine, asked)
        return [
            order_of(plain["inputs_embeds"][i][m], mixed["inputs_embeds"][i][m])
            for i, m in enumerate(plain["image"])
        ]

    together = orders(queries)
    assert together == [orders([query])[0] for query in queries]
    assert together[0] != together[1]
    assert orders(queries, seed=1)[0] != together[0] != orders(queries, number=1)[0]


def test_steered_rows_see_shuffled_images_too(shortcut: HFEngine, samples: list[Sample]) -> None:
    queries = [sample.query() for sample in samples[:3]]
    config = ScalingVis(alpha=2.0, rows="text_after_image")
    with shuffled_images(shortcut):
        one_by_one = [shortcut.answer([q], [config])[0][0] for q in queries]
        together = shortcut.answer(queries, [config])[0]
    assert [a.text for a in one_by_one] == [a.text for a in together]


def test_accuracies_are_those_of_asking_by_hand(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample], tmp_path
) -> None:
    result = permutation_test(shortcut, two_ds, samples, permutations=2, batch_size=8, seed=4)
    plain = ask_points(shortcut, two_ds, samples, batch_size=24)
    assert result.accuracies[0].original == pytest.approx(plain.mean())
    for number in range(2):
        with shuffled_images(shortcut, 4, number):
            answers = [shortcut.answer([s.query()], [None])[0][0].text for s in samples]
        right = [two_ds.grade(s, a).correct for s, a in zip(samples, answers, strict=True)]
        assert result.permutations[number] == pytest.approx(sum(right) / len(right))
    mean = sum(result.permutations) / 2
    assert result.accuracies[0].changed == pytest.approx(mean)
    assert result.sensitivity["all questions"]["value"] == pytest.approx(1 - mean / plain.mean())
    assert sum(a.questions for a in result.accuracies[1:]) == len(samples)
    # Four images decide nothing, whatever the interval.
    assert all(finding.holds is None for finding in result.findings())
    write_result(result, tmp_path)


def test_a_clear_loss_on_many_images_refutes_the_claim(shortcut: HFEngine, two_ds: Task) -> None:
    result = permutation_test(shortcut, two_ds, two_ds.load(150), permutations=1, batch_size=75)
    holds = [finding.holds for finding in result.findings()]
    assert holds == [False]


def insensitive(accuracy: float, chance: float | None) -> PermutationResult:
    """300 images, and no answer that shuffling changes."""
    points = (np.arange(300) < accuracy * 300).astype(float)
    asked = Asked(("any",) * 300, tuple(range(300)))
    return PermutationResult(
        engine={},
        settings={"task": "2ds"},
        accuracies=compare("shuffled", points, points.copy(), asked),
        sensitivity={"all questions": position_sensitivity(points, points, range(300))},
        permutations=[accuracy],
        chance=chance,
    )


def test_a_model_that_guesses_says_nothing_about_order() -> None:
    assert [f.holds for f in insensitive(0.9, 0.5).findings()] == [True, False]
    guessing = insensitive(0.5, 0.5).findings()
    assert [f.holds for f in guessing] == [None, None]
    assert "not above chance (50.0%)" in guessing[0].measured
    unknown = insensitive(0.5, None).findings()
    assert "chance is not known" in unknown[0].measured
    assert unknown[0].holds is True


def test_chance_is_that_of_the_candidates(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample]
) -> None:
    asked = [
        replace(samples[0], candidates=("a", "b")),
        replace(samples[1], candidates=tuple("abcd")),
    ]
    result = permutation_test(shortcut, two_ds, asked, permutations=1)
    assert result.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    asked[1] = replace(samples[1], candidates=())
    assert permutation_test(shortcut, two_ds, asked, permutations=1).chance is None


def test_nothing_is_left_on_the_model(
    shortcut: HFEngine, two_ds: Task, samples: list[Sample], fails: bool
) -> None:
    with unchanged(shortcut):
        if fails:
            with pytest.raises(Stop), shuffled_images(shortcut):
                stop()
        else:
            permutation_test(shortcut, two_ds, samples[:2], permutations=1)


def test_no_permutation_is_refused(shortcut: HFEngine, two_ds: Task, samples: list[Sample]) -> None:
    with pytest.raises(ConfigError, match="at least 1 permutation, got 0"):
        permutation_test(shortcut, two_ds, samples, permutations=0)
