"""Putting a language model and a vision tower together."""

import shutil

import pytest
import torch
from hf.helpers import image
from models.tiny_sources import (
    VOCABULARY,
    hf,
    vision_config,
    write_language_model,
    write_vision_tower,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, ConfigError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.models import assemble, measure_text_norms
from adaptvis.models.processors import placeholder_patch

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {
        "text": write_language_model(folder / "text"),
        "half": write_language_model(folder / "half", dtype=torch.bfloat16),
        "tied": write_language_model(folder / "tied", tie_word_embeddings=True),
        "clip": write_vision_tower(folder / "clip"),
        "siglip": write_vision_tower(folder / "siglip", "siglip"),
    }


def test_both_parts_keep_their_weights_and_new_rows_are_means(sources):
    model, processor = assemble(sources["text"], sources["clip"])
    text = hf.AutoModelForCausalLM.from_pretrained(sources["text"])
    tower = hf.CLIPVisionModel.from_pretrained(sources["clip"])
    for name, parameter in tower.named_parameters():
        assert torch.equal(model.model.vision_tower.get_parameter(name), parameter)
    for old, new in [
        (text.get_input_embeddings().weight, model.get_input_embeddings().weight),
        (text.lm_head.weight, model.lm_head.weight),
    ]:
        assert len(new) == VOCABULARY + 2
        assert torch.equal(new[:VOCABULARY], old)
        for row in new[VOCABULARY:]:
            torch.testing.assert_close(row, old.mean(dim=0))
    assert model.config.image_token_id == VOCABULARY
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == VOCABULARY
    assert processor.tokenizer.pad_token == "<pad>"
    assert model.config.text_config.vocab_size == VOCABULARY + 2


def test_the_projector_comes_from_the_seed_alone(sources):
    def projector(seed, elsewhere):
        torch.manual_seed(elsewhere)
        before = torch.random.get_rng_state()
        model, _ = assemble(sources["text"], sources["clip"], seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return model.model.multi_modal_projector.linear_1.weight

    assert torch.equal(projector(3, 0), projector(3, 1))
    assert not torch.equal(projector(3, 0), projector(4, 0))


def test_norms_are_measured_before_placeholders_are_added(sources):
    table = hf.AutoModelForCausalLM.from_pretrained(sources["text"]).get_input_embeddings().weight
    norms = table.detach().double().norm(dim=1)
    model, _ = assemble(sources["text"], sources["clip"], normalize=True)
    assert model.config.target_mean == pytest.approx(float(norms.mean()), rel=1e-6)
    assert model.config.max_norm == pytest.approx(float(norms.max()), rel=1e-6)
    given, _ = assemble(sources["text"], sources["clip"], normalize=True, max_norm=9.0)
    assert given.config.max_norm == 9.0
    assert given.config.target_mean == model.config.target_mean
    # A LLaVA's rows for placeholders are left out again when it is measured.
    assert measure_text_norms(model) == pytest.approx((float(norms.mean()), float(norms.max())))


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("compression", [None, 36, 16, 9, 1])
def test_prompts_have_as_many_placeholders_as_the_model_has_tokens(sources, tower, compression):
    model, processor = assemble(sources["text"], sources[tower], compression=compression)
    batch = processor(
        text=["USER: <image>\n<image>\n where", "<image> left ?"],
        images=[image(i) for i in range(3)],
        padding=True,
        return_tensors="pt",
    )
    count = (batch["input_ids"] == model.config.image_token_id).sum(1).tolist()
    assert count == [2 * (compression or 64), compression or 64]
    assert model.config.image_seq_length == (compression or 64)
    assert model(**batch).logits.isfinite().all()
    found = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    alone = processor(text=["<image> left ?"], images=[image(2)], return_tensors="pt")
    own = model.generate(**alone, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.equal(found[1, -3:], own[0, -3:])


def test_the_result_loads_again_and_answers_through_the_engine(sources, tmp_path):
    model, processor = assemble(
        sources["half"], sources["clip"], normalize=True, vision_feature_layers=[1, 2, 4]
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    engine = HFEngine.load(tmp_path)
    answers = engine.answer([Query("where ?", (image(0),))], [None], max_new_tokens=2)
    assert answers[0][0].token_ids
    assert str(sources["half"]) not in (tmp_path / "config.json").read_text()


def test_tied_embeddings_stay_tied(sources, tmp_path):
    model, processor = assemble(sources["tied"], sources["clip"])
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    batch = processor(text=["<image> left ?"], images=[image(2)], return_tensors="pt")
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_parts_are_taken_from_a_llava(sources, tmp_path):
    first, processor = assemble(sources["text"], sources["clip"], vision_feature_layers=-1)
    processor.chat_template = "{{ '<image> own' }}"
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, again = assemble(tmp_path, tmp_path, seed=9)
    assert again.chat_template == "{{ '<image> own' }}"
    assert model.config.vision_feature_layer == -1
    assert model.config.image_token_id == first.config.image_token_id
    assert len(again.tokenizer) == len(processor.tokenizer)
    for part in ("model.language_model", "model.vision_tower", "lm_head"):
        for name, parameter in first.get_submodule(part).named_parameters():
            assert torch.equal(model.get_submodule(part).get_parameter(name), parameter)
    assert not torch.equal(
        model.model.multi_modal_projector.linear_1.weight,
        first.model.multi_modal_projector.linear_1.weight,
    )


def test_a_language_model_in_bin_files_is_read_without_running_code(sources, tmp_path):
    for path in sources["text"].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    text = hf.AutoModelForCausalLM.from_pretrained(sources["text"])
    torch.save(text.state_dict(), tmp_path / "pytorch_model.bin")
    model, _ = assemble(tmp_path, sources["clip"])
    assert torch.equal(
        model.model.language_model.layers[1].mlp.up_proj.weight,
        text.model.layers[1].mlp.up_proj.weight,
    )

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model.norm.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Cannot read a language model"):
        assemble(tmp_path, sources["clip"])
    assert not (tmp_path / "ran").exists()


def test_a_base_without_a_template_for_images_speaks_as_llava(sources):
    _, processor = assemble(sources["text"], sources["clip"])
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "left"}]},
        {"role": "user", "content": "what ?"},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "USER: <image>\nwhere ? ASSISTANT: left</s>USER: what ? ASSISTANT:"


def test_wrong_parts_are_refused_in_one_sentence(sources, tmp_path):
    refused = [
        (sources["clip"], sources["clip"], UnsupportedError, "no language model"),
        (sources["text"], sources["text"], UnsupportedError, "no vision tower.*'llama'"),
        (tmp_path, sources["clip"], CheckpointError, "no config.json"),
        (sources["text"], tmp_path, CheckpointError, "no config.json"),
    ]
    for text, tower, kind, message in refused:
        with pytest.raises(kind, match=message) as error:
            assemble(text, tower)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="out of range: this vision tower has 4 blocks"):
        assemble(sources["text"], sources["clip"], vision_feature_layers=[1, 5])
    with pytest.raises(ConfigError, match="square number from 1 to 64"):
        assemble(sources["text"], sources["clip"], compression=7)


@pytest.mark.parametrize("part", ["text", "clip"])
def test_parts_whose_checkpoint_is_not_whole_are_refused(sources, tmp_path, part):
    shutil.copytree(sources[part], tmp_path / part)
    file = tmp_path / part / "model.safetensors"
    weights = load_file(file)
    lost = ("layers.1.mlp.fc1.weight", "layers.1.mlp.up_proj.weight")
    kept = {name: weight for name, weight in weights.items() if not name.endswith(lost)}
    assert len(kept) < len(weights)
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not whole: weights are missing"):
        assemble(*(tmp_path / name if name == part else sources[name] for name in ("text", "clip")))


def test_a_mistyped_folder_is_told_as_one(sources):
    with pytest.raises(CheckpointError, match="no folder of that name exists"):
        assemble("tutorial/language-modle", sources["clip"])


def test_an_image_processor_of_another_size_is_refused(sources, tmp_path):
    hf.CLIPVisionModel(vision_config(image_size=48)).save_pretrained(tmp_path)
    hf.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="images of 32 pixels and the vision tower takes 48"):
        assemble(sources["text"], tmp_path)


@pytest.mark.parametrize("side", range(1, 17))
def test_the_paper_s_compressions_can_be_written_for_clip_at_336(side):
    patch = placeholder_patch(336, 14, side * side)
    assert 336 // patch == side


def test_a_number_of_tokens_that_no_patch_size_gives_is_refused():
    with pytest.raises(ConfigError, match="next smaller number of tokens that can is 484"):
        placeholder_patch(336, 14, 23 * 23)
