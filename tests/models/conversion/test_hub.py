"""From the hub's LLaVA-1.5 to our architecture with options, and back."""

import builtins
import errno
import json

import pytest
import torch
from hf.helpers import image
from models.conversion.layouts import same_tensors, tensors_of
from models.tiny_sources import (
    HIDDEN,
    hf,
    llava_processor,
    randomise,
    text_config,
    vision_config,
    write_language_model,
)
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis.errors import CheckpointError, ConfigError, OutputError, UnsupportedError
from adaptvis.models import AdaptVisLlavaForConditionalGeneration
from adaptvis.models.conversion import convert, files

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A LLaVA under the classic names, in bfloat16, with a derived buffer of old versions."""
    folder = tmp_path_factory.mktemp("hub")
    config = hf.LlavaConfig(
        vision_config=vision_config(),
        text_config=text_config(vocab_size=120, pad_token_id=0),
        image_token_id=4,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    model = randomise(hf.LlavaForConditionalGeneration(config), 7).bfloat16()
    model.save_pretrained(folder)
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("model.")
        name = name.replace("language_model.", "language_model.model.", 1)
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        tensors[name.replace("lm_head.", "language_model.lm_head.", 1)] = tensor.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    llava_processor().save_pretrained(folder)
    return folder


def logits(folder, batch):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(**batch).logits


def batch_of(folder):
    processor = AutoProcessor.from_pretrained(folder)
    return processor(text=["<image> where is the cat"], images=[image(0)], return_tensors="pt")


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_there_and_back_keeps_every_bit(hub, tmp_path, shard_bytes):
    convert(hub, tmp_path / "ours", shard_bytes=shard_bytes)
    many = len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert many == (shard_bytes == 20_000)
    same_tensors(tensors_of(tmp_path / "ours"), tensors_of(hub))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert type(loaded) is AdaptVisLlavaForConditionalGeneration
    batch = batch_of(hub)
    assert torch.equal(logits(tmp_path / "ours", batch), logits(hub, batch))
    convert(tmp_path / "ours", tmp_path / "back", to="llava", shard_bytes=shard_bytes)
    same_tensors(tensors_of(tmp_path / "back"), tensors_of(hub))
    assert torch.equal(logits(tmp_path / "back", batch), logits(hub, batch))
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["model_type"] == "llava"
    assert written["architectures"] == ["LlavaForConditionalGeneration"]
    assert written["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert "normalize" not in written


def test_names_of_transformers_5_are_read_too(hub, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(hub)
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    llava_processor().save_pretrained(tmp_path / "new")
    assert any(name.startswith("model.vision_tower.") for name in tensors_of(tmp_path / "new"))
    convert(tmp_path / "new", tmp_path / "ours")
    same_tensors(tensors_of(tmp_path / "ours"), tensors_of(hub))


def test_normalize_adds_a_fresh_weight_and_measures_the_table(hub, tmp_path):
    convert(hub, tmp_path / "out", normalize=True, compression=16)
    stored, found = tensors_of(hub), tensors_of(tmp_path / "out")
    weight = found.pop("multi_modal_projector.norm.weight")
    same_tensors(found, stored)
    assert torch.equal(weight, torch.full((HIDDEN,), HIDDEN**-0.5).bfloat16())
    tokenizer = AutoProcessor.from_pretrained(hub).tokenizer
    table = stored["language_model.model.embed_tokens.weight"][: len(tokenizer)].double()
    norms = torch.stack([row.norm() for i, row in enumerate(table) if i not in (0, 4)])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["target_mean"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert config["max_norm"] == pytest.approx(float(norms.max()), rel=1e-6)
    assert config["compression"] == config["image_seq_length"] == 16
    batch = batch_of(tmp_path / "out")
    assert int((batch["input_ids"] == 4).sum()) == 16
    assert logits(tmp_path / "out", batch).isfinite().all()


def test_other_layers_need_leave_for_a_fresh_projector(hub, tmp_path):
    with pytest.raises(ConfigError, match=r"trained on layer -2 .*--new-projector"):
        convert(hub, tmp_path / "out", vision_feature_layers=[1, 2])
    first = convert(
        hub, tmp_path / "first", vision_feature_layers=[1, 2], new_projector=True, seed=3
    )
    again = convert(
        hub, tmp_path / "again", vision_feature_layers=[1, 2], new_projector=True, seed=3
    )
    same_tensors(tensors_of(first), tensors_of(again))
    found, stored = tensors_of(first), tensors_of(hub)
    assert found["multi_modal_projector.linear_1.weight"].shape == (HIDDEN, 32)
    for name, tensor in stored.items():
        assert name.startswith("multi_modal_projector.") or torch.equal(found[name], tensor)
    assert logits(first, batch_of(first)).isfinite().all()


def test_several_layers_are_plain_llava_s_too(hub, tmp_path):
    convert(hub, tmp_path / "ours", vision_feature_layers=[1, 2], new_projector=True)
    convert(tmp_path / "ours", tmp_path / "plain", to="llava")
    batch = batch_of(hub)
    assert torch.equal(logits(tmp_path / "plain", batch), logits(tmp_path / "ours", batch))


def test_options_that_the_target_lacks_are_named(hub, tmp_path):
    convert(hub, tmp_path / "both", normalize=True, compression=16)
    with pytest.raises(UnsupportedError, match="no normalize and no compression"):
        convert(tmp_path / "both", tmp_path / "out", to="llava")
    with pytest.raises(UnsupportedError, match="pools before it normalises"):
        convert(tmp_path / "both", tmp_path / "out", to="original", vision_tower="a/b")
    convert(hub, tmp_path / "norm", normalize=True)
    with pytest.raises(UnsupportedError, match=r"fixed at 0\.83, 1\.22 .* --set max_norm=1\.22"):
        convert(tmp_path / "norm", tmp_path / "out", to="original", vision_tower="a/b")
    with pytest.raises(ConfigError, match="names the CLIP checkpoint"):
        convert(hub, tmp_path / "out", to="original")
    assert not (tmp_path / "out").exists()


def test_a_hub_checkpoint_goes_to_the_original_layout_with_its_tower(hub, tmp_path):
    convert(hub, tmp_path / "out", to="original", vision_tower="openai/clip-tiny")
    found, stored = tensors_of(tmp_path / "out"), tensors_of(hub)
    assert torch.equal(
        found["model.mm_projector.2.bias"], stored["multi_modal_projector.linear_2.bias"]
    )
    name = "vision_model.embeddings.class_embedding"
    assert torch.equal(
        found[f"model.vision_tower.vision_tower.{name}"], stored[f"vision_tower.{name}"]
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llava_llama"
    assert config["unfreeze_mm_vision_tower"] is True
    assert config["mm_vision_tower"] == "openai/clip-tiny"


def test_other_models_and_mixed_up_files_are_refused(hub, tmp_path):
    text = write_language_model(tmp_path / "text")
    with pytest.raises(UnsupportedError, match=r"'llama' model; LLaVA-1\.5 can be converted"):
        convert(text, tmp_path / "out")
    with pytest.raises(ConfigError, match="has its own language model"):
        convert(hub, tmp_path / "out", language_model=text)
    with pytest.raises(CheckpointError, match="There is no model folder"):
        convert(tmp_path / "nothing", tmp_path / "out")
    convert(hub, tmp_path / "copy")
    tensors = tensors_of(hub)
    for change, message in [
        ({"language_model.model.extra.weight": torch.ones(1)}, "another architecture"),
        ({"language_model.model.norm.weight": torch.ones(7)}, "do not belong together"),
    ]:
        save_file(tensors | change, tmp_path / "copy" / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "copy", tmp_path / "out")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        convert(tmp_path / "copy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        convert(hub, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["OSError", "SafetensorError"],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(hub, tmp_path, monkeypatch, problem):
    def full(*args, **kwargs):
        raise problem

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OutputError, match="is full; free some space"):
        convert(hub, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_the_source_is_opened_for_writing(hub, tmp_path, monkeypatch):
    opened = builtins.open

    def watch(file, mode="r", *args, **kwargs):
        assert str(hub) not in str(file) or not set(mode) & set("wax+"), file
        return opened(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watch)
    convert(hub, tmp_path / "out", normalize=True)
