"""How many questions an instrument asks at once."""

import torch
from diagnostics.helpers import TinyEngine
from transformers import LlavaConfig, LlavaForConditionalGeneration

from adaptvis.diagnostics.prefill import fitting_batch


def test_small_models_are_asked_many_questions_at_once() -> None:
    assert fitting_batch(TinyEngine("llava")) == 64


def test_a_7b_model_is_asked_one_question_at_a_time() -> None:
    engine = TinyEngine("llava")
    with torch.device("meta"):
        engine.model = LlavaForConditionalGeneration(LlavaConfig())
    assert fitting_batch(engine) == 1
