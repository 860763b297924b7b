"""How many questions an instrument asks at once."""

from dataclasses import replace

import pytest
import torch
from diagnostics.helpers import TinyEngine
from transformers import LlavaConfig, LlavaForConditionalGeneration

from adaptvis.diagnostics.prefill import askable, fitting_batch
from adaptvis.errors import AdaptVisWarning, DataError
from adaptvis.tasks import get_task


def test_small_models_are_asked_many_questions_at_once() -> None:
    assert fitting_batch(TinyEngine("llava")) == 64


def test_a_7b_model_is_asked_one_question_at_a_time() -> None:
    engine = TinyEngine("llava")
    with torch.device("meta"):
        engine.model = LlavaForConditionalGeneration(LlavaConfig())
    assert fitting_batch(engine) == 1


def test_questions_that_cannot_be_asked_are_left_out_with_a_word() -> None:
    engine = TinyEngine("llava")
    samples = get_task("2ds").load(40)

    def unreadable() -> None:
        raise KeyError("image")

    samples[3] = replace(samples[3], prompt="what is <image>")
    samples[9] = replace(samples[9], images=unreadable)
    with pytest.warns(AdaptVisWarning, match="2 of 40 questions cannot be asked; .*holds <image>"):
        assert askable(engine, samples) == [*samples[:3], *samples[4:9], *samples[10:]]
    samples[10] = samples[11] = samples[9]
    with pytest.raises(DataError, match=r"4 of 40 .* more than 5% are too many"):
        askable(engine, samples)
