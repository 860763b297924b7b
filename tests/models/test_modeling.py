"""The model alone: without options LLaVA's own, with options what the formulas say, on disk too."""

import copy
import json
import math

import pytest
import torch
from hf.helpers import image
from models.tiny_sources import HIDDEN, hf, llava_processor, randomise, text_config, vision_config
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from adaptvis.errors import ConfigError
from adaptvis.models import AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration
from adaptvis.models.build import fresh_projector
from adaptvis.training.tiny.export import classic_key

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")
OPTIONS = {
    "normalize": True,
    "target_mean": 0.83,
    "max_norm": 1.22,
    "vision_feature_layer": [1, 3, -1],
    "compression": 9,
}


def config(make=AdaptVisLlavaConfig, **options):
    return make(
        **{
            "vision_config": vision_config(),
            "text_config": text_config(vocab_size=120, pad_token_id=0),
            "image_token_id": 4,
            "tie_word_embeddings": False,
            "vision_feature_layer": -2,
            **options,
        }
    )


def build(**options):
    return randomise(AdaptVisLlavaForConditionalGeneration(config(**options)), 5).eval()


def inputs(tokens=64, pictures=2):
    processor = llava_processor(patch_size=32 // math.isqrt(tokens))
    return processor(
        text=["<image> where is the cat", "what <image>"][:pictures],
        images=[image(i) for i in range(pictures)],
        padding=True,
        return_tensors="pt",
    )


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits


def test_without_options_logits_are_those_of_llava_bit_for_bit():
    ours = build()
    plain = hf.LlavaForConditionalGeneration(config(hf.LlavaConfig)).eval()
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(logits(ours, inputs()), logits(plain, inputs()))
    assert set(ours.state_dict()) == set(plain.state_dict())


def image_tokens_by_hand(model, pixels):
    """float64 [B, 9, D] from the tower's hidden states: plain loops and the paper's formulas."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    layers = [states[1], states[3], states[len(states) - 1]]
    weights = {k: v.double() for k, v in model.model.multi_modal_projector.state_dict().items()}
    rows = []
    for picture in range(len(pixels)):
        patches = []
        for patch in range(1, 65):  # 0 is the class token
            x = torch.cat([layer[picture, patch].double() for layer in layers])
            x = weights["linear_1.weight"] @ x + weights["linear_1.bias"]
            x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
            patches.append(weights["linear_2.weight"] @ x + weights["linear_2.bias"])
        pooled = []
        # Adaptive pooling from 8 to 3: floor(8 i / 3) to ceil(8 (i + 1) / 3).
        ranges = [(0, 3), (2, 6), (5, 8)]
        for top, bottom in ranges:
            for left, right in ranges:
                cells = [patches[8 * r + c] for r in range(top, bottom) for c in range(left, right)]
                pooled.append(sum(cells) / len(cells))
        rows.append(torch.stack([normalised(x, weights["norm.weight"]) for x in pooled]))
    return torch.stack(rows)


def normalised(x, weight):
    root_mean_square = math.sqrt(float((x * x).sum()) / len(x) + 1e-6)
    x = weight * x / root_mean_square
    length = math.sqrt(float((x * x).sum()))
    return x * min(1.0, 1.22 / length) * 0.83


@torch.no_grad()
def test_with_every_option_logits_equal_a_float64_computation():
    model, batch = build(**OPTIONS).double(), inputs(tokens=9)
    batch["pixel_values"] = batch["pixel_values"].double()
    text = hf.LlamaForCausalLM(model.config.text_config).double().eval()
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.lm_head.load_state_dict(model.lm_head.state_dict())
    embeds = text.get_input_embeddings()(batch["input_ids"])
    found = image_tokens_by_hand(model, batch["pixel_values"])
    for row in range(2):
        embeds[row, batch["input_ids"][row] == 4] = found[row]
    expected = text(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    mine = logits(model, batch)
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(mine[seen], expected[seen], atol=1e-5, rtol=1e-5)
    assert (found.norm(dim=-1) <= 1.22 * 0.83 + 1e-9).all()


def test_image_tokens_begin_with_the_mean_norm_of_text():
    """Section 5.2: a fresh tail puts every image token at the target mean."""
    options = config(normalize=True, target_mean=0.83, max_norm=1.22)
    features = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    norms = fresh_projector(options, seed=0)(features).norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.83), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_saving_and_loading_keeps_every_bit_and_the_hub_s_names(tmp_path, shard):
    model, batch = build(**OPTIONS), inputs(tokens=9)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shard == "20KB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(files) > 1)
    stored = names_in(tmp_path)
    assert stored == {classic_key(name) for name in model.state_dict()}
    assert "vision_tower.vision_model.embeddings.class_embedding" in stored
    assert "language_model.model.embed_tokens.weight" in stored
    assert "multi_modal_projector.norm.weight" in stored

    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is AdaptVisLlavaForConditionalGeneration
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    loaded.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again") == stored


def test_tensors_are_loaded_by_their_names_on_disk_too(tmp_path):
    """The Trainer resumes so, without complaint where nothing fits."""
    model, other = build(**OPTIONS), AdaptVisLlavaForConditionalGeneration(config(**OPTIONS))
    model.save_pretrained(tmp_path)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter), name
    other.load_state_dict(model.state_dict(), strict=True)
    wrapped = torch.nn.ModuleDict({"module": copy.deepcopy(build(**OPTIONS))})
    stored = load_file(tmp_path / "model.safetensors")
    wrapped.load_state_dict({f"module.{name}": value for name, value in stored.items()})


def test_the_trainer_resumes_from_what_was_saved(tmp_path):
    model, other = build(**OPTIONS), AdaptVisLlavaForConditionalGeneration(config(**OPTIONS))
    for shard, folder in (("5GB", tmp_path / "one"), ("20KB", tmp_path / "many")):
        model.save_pretrained(folder, max_shard_size=shard)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        arguments = hf.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
        hf.Trainer(model=other, args=arguments)._load_from_checkpoint(str(folder))
        for name, parameter in model.named_parameters():
            assert torch.equal(other.get_parameter(name), parameter), name


def names_in(folder):
    names = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def test_the_configuration_on_disk_is_complete(tmp_path):
    build(**OPTIONS).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["AdaptVisLlavaForConditionalGeneration"]
    assert written["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert written["model_type"] == "adaptvis_llava"
    read = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(read, AdaptVisLlavaConfig)
    assert {name: getattr(read, name) for name in OPTIONS} == OPTIONS


def test_auto_processor_knows_the_architecture(tmp_path):
    build().save_pretrained(tmp_path)
    llava_processor().save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is hf.LlavaProcessor


def test_bfloat16_weights_give_nearly_the_same_logits(tmp_path):
    model, batch = build(**OPTIONS), inputs(tokens=9)
    model.save_pretrained(tmp_path)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    batch16 = {**batch, "pixel_values": batch["pixel_values"].bfloat16()}
    expected, found = logits(model, batch), logits(half, batch16).float()
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_device_map_leaves_no_parameter_without_its_value(tmp_path):
    model = build(**OPTIONS)
    model.save_pretrained(tmp_path)
    placed = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map={"": "cpu"})
    for name, parameter in model.named_parameters():
        assert torch.equal(placed.get_parameter(name), parameter), name


def test_a_plain_checkpoint_read_with_normalize_gets_a_fresh_weight(tmp_path):
    hf.LlavaForConditionalGeneration(config(hf.LlavaConfig)).save_pretrained(tmp_path)
    model = AdaptVisLlavaForConditionalGeneration.from_pretrained(
        tmp_path, config=config(normalize=True, target_mean=0.8, max_norm=1.2)
    )
    weight = model.model.multi_modal_projector.norm.weight
    torch.testing.assert_close(weight.data, torch.full((HIDDEN,), HIDDEN**-0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_feature_layer": [1, 5]}, "5 is out of range: this vision tower has 4 blocks"),
        ({"vision_feature_layer": []}, "empty list"),
        ({"compression": 10}, "square number from 1 to 64"),
        ({"compression": 4, "vision_feature_select_strategy": "full"}, "must be 'default'"),
        ({"normalize": True, "max_norm": 1.0}, "normalize needs target_mean"),
        ({"normalize": True, "max_norm": math.nan, "target_mean": 1.0}, "finite number above 0"),
    ],
)
def test_options_that_contradict_the_tower_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        config(**options)
    assert "\n" not in str(error.value)
