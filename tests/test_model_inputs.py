"""No text of a question becomes a picture, in any family."""

import pytest
import torch
import transformers
from hf.helpers import FAMILIES, Case, image
from pictures_on_disk import orientation_tag
from PIL import Image

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, PromptError
from adaptvis.hf.engine import HFEngine
from adaptvis.model_inputs import load_processor, prompt_text

# The token that the model replaces, where the processor's placeholder is another.
OTHERS = {"gemma3": ["<image_soft_token>"], "qwen2_vl": ["<|vision_start|>", "<|video_pad|>"]}


# SmolVLM's chat template asks its video processor, which needs torchvision.
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "smolvlm"])
def test_a_mark_in_a_question_is_refused_and_not_counted(family: str) -> None:
    case = Case(family)
    engine = HFEngine(case.model, case.processor)
    marks = [case.processor.image_token, *OTHERS.get(family, [])]
    for mark in marks:
        for images in ((), (image(0),), (image(0), image(1))):
            with pytest.raises(PromptError, match=r"holds .*, which .* takes for a picture"):
                engine.answer([Query(f"what is {mark} where", images)], [None])
    assert engine.encode([Query("where is the cat", (image(0),))])["input_ids"].shape[0] == 1


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "internvl", "idefics3"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_raw_prompt_has_one_placeholder_per_image(family: str, count: int) -> None:
    case = Case(family)
    engine = HFEngine(case.model, case.processor)
    mark = case.processor.image_token
    around = "<|vision_start|>{}<|vision_end|>" if family.startswith("qwen") else "{}"
    prompt = " ".join([around.format(mark)] * count) + " where is the cat"
    query = Query(prompt, tuple(image(i) for i in range(count)), raw=True)
    assert engine.encode([query])["input_ids"].shape[0] == 1
    for images in (count - 1, count + 1):
        wrong = Query(prompt, tuple(image(i) for i in range(images)), raw=True)
        with pytest.raises(PromptError, match=f"has {count} times the placeholder"):
            engine.encode([wrong])
    if family == "gemma3":
        with pytest.raises(PromptError, match="<image_soft_token>"):
            engine.encode([Query(f"{prompt} <image_soft_token>", query.images, raw=True)])


def test_one_mark_too_many_and_one_too_few_do_not_make_up_for_each_other() -> None:
    case = Case("llava")
    engine = HFEngine(case.model, case.processor)
    more = Query("<image> what <image>", (image(0),), raw=True)
    fewer = Query("<image> where", (image(1), image(2)), raw=True)
    with pytest.raises(PromptError, match="has 2 times the placeholder <image> and comes with 1"):
        engine.encode([more, fewer])


def test_templates_in_a_question_are_words() -> None:
    processor = Case("llava").processor
    text = "is {{ 7 * 7 }} {% for x in y %} {# red #} </s>"
    assert text in prompt_text(processor, Query(text), "")


def test_a_query_of_any_mode_is_asked_as_its_rgb_picture() -> None:
    case = Case("llava")
    engine = HFEngine(case.model, case.processor)
    shown = image(0)
    turned = shown.transpose(Image.Transpose.ROTATE_90)
    turned.info["exif"] = orientation_tag(6)
    expected = engine.encode([Query("where", (shown,))])["pixel_values"]
    for given in (turned, shown.convert("RGBA"), shown.convert("RGBX")):
        assert torch.equal(engine.encode([Query("where", (given,))])["pixel_values"], expected)


def test_a_processor_that_needs_a_missing_torchvision_says_what_to_install(monkeypatch):
    def lacking(*args, **kwargs):
        raise ImportError(
            "\nSmolVLMImageProcessorPil requires the Torchvision library but it was not found in "
            "your environment. Check out the instructions on the\ninstallation page"
        )

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lacking)
    with pytest.raises(CheckpointError, match=r"^The image processor of m needs torchvision in"):
        load_processor("m")
