"""A packed batch is its questions one by one: labels token by token, loss and gradients."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from adaptvis.data.questions import Question
from adaptvis.data.scenes import COLORS, SHAPES, Scene, SceneObject, render_array
from adaptvis.errors import DataError
from adaptvis.training.tiny.model import build_model
from adaptvis.training.tiny.packing import (
    EOS_WEIGHT,
    PatchHead,
    _forward,
    answer_logits,
    pack,
    packed_losses,
    patch_features,
)
from adaptvis.training.tiny.stream import Batch, make_batch, patch_labels
from adaptvis.training.tiny.tokenizer import EOS, PAD, VOCABULARY, build_tokenizer

GROUPS = {"what": 1.0, "where": 1.0, "relation": 1.0, "yes_no": 1.0}


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return build_model(3).eval()


def single(model: LlavaForConditionalGeneration, pixels: torch.Tensor, question: Question):
    """Next-token logits and labels of one question, by the plain model on the plain prompt."""
    prompt = "USER: " + "<image>" * 49 + f"\n{question.text} ASSISTANT:"
    tokenizer = build_tokenizer()
    ids = tokenizer(prompt).input_ids
    answer = [*tokenizer(question.answer).input_ids[1:], EOS]
    full = torch.tensor([ids + answer])
    logits = model(input_ids=full, pixel_values=pixels[None]).logits[0]
    return logits[len(ids) - 1 : -1], torch.tensor(answer)


def test_labels_token_by_token() -> None:
    scene = Scene(
        (SceneObject("red", "circle", 20, 40, 5), SceneObject("blue", "square", 22, 12, 5))
    )
    asked = [
        Question("What object is at the top of the image?", "blue square", "shape_color_absolute"),
        Question("Is the circle below the square?", "yes", "shape_relative"),
    ]
    packed = pack(Batch(render_array(scene)[None], [scene], [asked]), 3)

    def words(ids: torch.Tensor) -> str:
        return " ".join(VOCABULARY[i] for i in ids.tolist() if i != PAD)

    top = "what object is at the top of the image ? assistant : blue square"
    assert words(packed.blocks[0, 0]) == top
    assert words(packed.blocks[0, 1]) == "is the circle below the square ? assistant : yes"
    assert packed.rows[0].tolist() == [[11, 12, 13], [8, 9, 0], [0, 0, 0]]
    assert [VOCABULARY[i] for i in packed.targets[0, 0].tolist()] == ["blue", "square", "</s>"]
    assert [VOCABULARY[i] for i in packed.targets[0, 1].tolist()] == ["yes", "</s>", "</s>"]
    expected = [[1, 1, EOS_WEIGHT], [1, EOS_WEIGHT, 0], [0, 0, 0]]
    assert packed.weights[0].tolist() == [pytest.approx(row) for row in expected]
    # The scored row is the token before its target, in every block.
    assert VOCABULARY[packed.blocks[0, 1, 8]] == ":"
    assert VOCABULARY[packed.blocks[0, 1, 9]] == "yes"


def test_packed_loss_equals_the_questions_one_by_one(model: LlavaForConditionalGeneration) -> None:
    batch = make_batch("t", 3, 4, {2: 1.0, 4: 1.0}, GROUPS)
    packed = pack(batch, 4)
    total, count = torch.zeros(()), 0
    logits = answer_logits(model, patch_features(model, packed.pixels), packed)
    for b, asked in enumerate(batch.questions):
        for q, question in enumerate(asked):
            expected, answer = single(model, packed.pixels[b], question)
            torch.testing.assert_close(logits[b, q, : len(answer)], expected, atol=2e-5, rtol=1e-4)
            weights = torch.tensor([1.0] * (len(answer) - 1) + [EOS_WEIGHT])
            total = total + (F.cross_entropy(expected, answer, reduction="none") * weights).sum()
            count += len(answer) - 1
    head = PatchHead(128)
    packed_loss = packed_losses(model, head, packed).answers
    torch.testing.assert_close(packed_loss, total / count, atol=1e-5, rtol=1e-5)

    names, parameters = zip(*model.named_parameters(), strict=True)
    expected_grads = torch.autograd.grad(total / count, parameters, allow_unused=True)
    grads = torch.autograd.grad(packed_loss, parameters, allow_unused=True)
    for name, got, wanted in zip(names, grads, expected_grads, strict=True):
        assert (got is None) == (wanted is None), name
        if got is not None and wanted is not None:
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-3, msg=name)


def test_questions_do_not_see_each_other(model: LlavaForConditionalGeneration) -> None:
    batch = make_batch("u", 1, 3, {3: 1.0}, GROUPS)
    packed = pack(batch, 3)
    turned = Batch(batch.images, batch.scenes, [batch.questions[0][::-1]])
    features = patch_features(model, packed.pixels)
    first = answer_logits(model, features, packed)
    second = answer_logits(model, features, pack(turned, 3)).flip(1)
    used = packed.weights > 0
    torch.testing.assert_close(first[used], second[used], atol=1e-5, rtol=1e-5)


def test_words_that_stand_for_an_object_know_its_patch() -> None:
    scene = Scene(
        (SceneObject("red", "circle", 20, 40, 5), SceneObject("blue", "square", 22, 12, 5))
    )
    asked = [
        Question(
            "Where is the red circle in relation to the blue square?",
            "below",
            "shape_color_relative",
        ),
        Question("Is the circle below the square?", "yes", "shape_relative"),
        Question("What color is at the bottom of the image?", "red", "color_absolute"),
    ]
    packed = pack(Batch(render_array(scene)[None], [scene], [asked]), 3)
    read = {
        (q, VOCABULARY[packed.blocks[b, q, at]]): (row, column)
        for b, q, at, row, column, _ in packed.mentions.tolist()
    }
    assert read == {
        (0, "red"): (5, 2),
        (0, "blue"): (1, 2),
        (1, "circle"): (5, 2),
        (1, "square"): (1, 2),
        (2, "bottom"): (5, 2),
    }


def test_grounding_is_read_after_two_layers_of_the_plain_model(
    model: LlavaForConditionalGeneration,
) -> None:
    batch = make_batch("g", 1, 1, {3: 1.0}, {"where": 1.0})
    packed = pack(batch, 1)
    head = PatchHead(128)
    loss = packed_losses(model, head, packed).grounding
    prompt = "USER: " + "<image>" * 49 + f"\n{batch.questions[0][0].text} ASSISTANT:"
    ids = torch.tensor([build_tokenizer()(prompt).input_ids])
    output = model(input_ids=ids, pixel_values=packed.pixels, output_hidden_states=True)
    _, _, at, row, column, _ = packed.mentions[0].tolist()
    hidden = output.hidden_states[2][:, 52 + at]
    torch.testing.assert_close(
        loss, head.grounding_loss(hidden, torch.tensor([[row, column]])), atol=1e-5, rtol=1e-4
    )


def test_blind_words_do_not_depend_on_the_image_but_the_cue_does(
    model: LlavaForConditionalGeneration,
) -> None:
    batch = make_batch("b", 2, 2, {3: 1.0}, {"where": 1.0})
    packed = pack(batch, 2, 1.0, random.Random(0))
    features = patch_features(model, packed.pixels)
    first = _forward(model, features, packed)
    second = _forward(model, features.flip(0), packed)
    blind = packed.blind.flatten(1)
    assert blind.sum() == (packed.rows[..., 0]).sum()
    torch.testing.assert_close(first.late[:, 52:][blind], second.late[:, 52:][blind])
    assert (first.logits[..., 0, :] - second.logits[..., 0, :]).abs().max() > 1e-3
    assert first.attention[packed.blind].abs().max() < 1e-6


def test_patch_labels_name_what_is_painted() -> None:
    scene = Scene(
        (SceneObject("red", "square", 20, 20, 7), SceneObject("cyan", "cross", 44, 44, 7))
    )
    labels = patch_labels(scene).reshape(7, 7, 2)
    assert labels[2, 2].tolist() == [1 + list(COLORS).index("red"), 1 + SHAPES.index("square")]
    assert labels[5, 5].tolist() == [1 + list(COLORS).index("cyan"), 1 + SHAPES.index("cross")]
    assert labels[0, 6].tolist() == [0, 0]
    painted = (render_array(scene) != 128).any(-1).reshape(7, 8, 7, 8).sum(axis=(1, 3))
    assert np.array_equal(labels[..., 0] > 0, painted >= 6)


def test_a_question_that_is_too_long_is_refused() -> None:
    scene = Scene((SceneObject("red", "circle", 20, 40, 5),))
    question = Question("Is " + "the " * 20 + "circle?", "yes", "shape_relative")
    with pytest.raises(DataError, match="does not fit"):
        pack(Batch(render_array(scene)[None], [scene], [[question]]), 1)
