"""Models that are not where they were looked for: one sentence, of ours."""

import pytest
from huggingface_hub import constants
from models.tiny_sources import hf, text_tokenizer, write_language_model, write_vision_tower

from adaptvis.errors import CheckpointError, UnsupportedError
from adaptvis.models import assemble
from adaptvis.models.sources import load_language_model, read_config


def said(action, kind=CheckpointError):
    with pytest.raises(kind) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for library in ("Repo id", "https://", "urllib", "Errno", "cached files"):
        assert library not in message
    return message


@pytest.mark.parametrize("source", ["/tmp/nothing", "./nothing", "~/nothing", "a/b/nothing"])
def test_what_looks_like_a_folder_is_told_as_one(source):
    assert f"There is no model folder {source}" in said(lambda: read_config(source))


def test_an_embedded_name_that_was_mistyped_is_suggested():
    assert "did you mean 'tiny-2ds-seed0'" in said(lambda: read_config("tiny-2ds-sed0"))


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = said(lambda: read_config("org/name-that-nobody-has"))
    assert "no folder of that name exists" in message
    assert "cannot be reached" in message


def test_an_encoder_is_no_language_model(tmp_path):
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 8}
    bert = hf.BertForMaskedLM(hf.BertConfig(num_attention_heads=2, **sizes))
    bert.save_pretrained(tmp_path)
    text_tokenizer(pad="<pad>").save_pretrained(tmp_path)
    message = said(lambda: load_language_model(tmp_path, "auto"), UnsupportedError)
    assert "is a 'bert' model and no language model" in message


def test_a_tower_without_the_settings_of_its_images_is_refused(tmp_path):
    text, tower = write_language_model(tmp_path / "text"), write_vision_tower(tmp_path / "clip")
    (tower / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in said(lambda: assemble(text, tower))
