"""From LLaVA's own code and Beyond Semantics' additions to it, and back."""

import json

import pytest
import torch
from hf.helpers import image
from models.conversion.layouts import (
    HIDDEN,
    original_logits,
    projector,
    same_tensors,
    tensors_of,
    write_clip,
    write_original,
)
from models.tiny_sources import VOCABULARY, write_language_model, write_vision_tower
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, ConfigError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.models.conversion import convert

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def identity(x, weight):
    return x


def normalised(x, weight):
    """NormalizedProjector of Beyond Semantics: RMSNorm, clip to 1.22, times 0.83."""
    x = weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    norms = torch.norm(x, dim=-1, keepdim=True)
    return x * torch.minimum(1.22 / norms, torch.ones_like(norms)) * 0.83


def pooled(x, weight):
    """PoolingProjector of Beyond Semantics, to a grid of side 4."""
    grid = x.T.reshape(1, HIDDEN, 8, 8)
    return torch.nn.AdaptiveAvgPool2d((4, 4))(grid).view(HIDDEN, 16).T


VARIANTS = [
    ({}, identity, 64),
    ({"normalize_projector": True}, normalised, 64),
    ({"compression_after_projection": True, "final_spatial_size": 4}, pooled, 16),
]


@pytest.mark.parametrize(("flags", "tail", "tokens"), VARIANTS, ids=["plain", "norm", "pool"])
def test_a_converted_model_computes_what_the_original_code_does(
    tmp_path, clip, flags, tail, tokens
):
    tensors = write_original(tmp_path / "in", **flags)
    convert(tmp_path / "in", tmp_path / "out", vision_tower=clip)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    batch = processor(
        text=["USER : <image> where ? ASSISTANT :"], images=[image(0)], return_tensors="pt"
    )
    ids = batch["input_ids"][0]
    placeholder = ids == model.config.image_token_id
    assert int(placeholder.sum()) == tokens
    start = int(placeholder.nonzero()[0])
    expected = original_logits(
        tensors, clip, ids[~placeholder].tolist(), start, batch["pixel_values"], tail
    )
    with torch.no_grad():
        found = model(**batch).logits[0]
    torch.testing.assert_close(found[:, :VOCABULARY], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("flags", [variant[0] for variant in VARIANTS], ids=str)
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_there_and_back_keeps_every_bit(tmp_path, clip, flags, kind, shards, index):
    tensors = write_original(tmp_path / "in", kind=kind, shards=shards, index=index, **flags)
    convert(tmp_path / "in", tmp_path / "ours", vision_tower=clip, shard_bytes=20_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").is_file()
    convert(tmp_path / "ours", tmp_path / "back", to="original")
    same_tensors(tensors_of(tmp_path / "back"), tensors)
    before = json.loads((tmp_path / "in" / "config.json").read_text())
    after = json.loads((tmp_path / "back" / "config.json").read_text())
    for name in ("vocab_size", "mm_vision_tower", "mm_projector_type", "mm_vision_select_layer"):
        assert after[name] == before[name]
    assert not list(tmp_path.glob(".*"))


def test_rows_for_placeholders_are_added_and_recorded(tmp_path, clip):
    tensors = write_original(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", vision_tower=clip)
    table = tensors_of(tmp_path / "out")["language_model.model.embed_tokens.weight"]
    old = tensors["model.embed_tokens.weight"]
    assert torch.equal(table[:VOCABULARY], old)
    torch.testing.assert_close(table[VOCABULARY:], old.float().mean(0).half().expand(2, -1))
    answer = HFEngine.load(tmp_path / "out").answer(
        [Query("where ?", (image(0),))], [None], max_new_tokens=2
    )
    assert answer[0][0].token_ids


def test_a_projector_of_stage_1_goes_with_its_language_model(tmp_path, clip):
    text = write_language_model(tmp_path / "text")
    stage = tmp_path / "stage1"
    stage.mkdir()
    weights = projector("model.mm_projector.", dtype=torch.bfloat16)
    torch.save(weights, stage / "mm_projector.bin")
    settings = {"mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "openai/clip-tiny"}
    (stage / "config.json").write_text(json.dumps({"model_type": "llava_llama", **settings}))
    with pytest.raises(ConfigError, match="--language-model"):
        convert(stage, tmp_path / "out", vision_tower=clip)
    convert(stage, tmp_path / "out", vision_tower=clip, language_model=text)
    found = tensors_of(tmp_path / "out")
    for number, name in ((0, "linear_1"), (2, "linear_2")):
        for kind in ("weight", "bias"):
            stored = weights[f"model.mm_projector.{number}.{kind}"]
            assert torch.equal(found[f"multi_modal_projector.{name}.{kind}"], stored)
    base = tensors_of(text)
    assert torch.equal(
        found["language_model.model.layers.0.mlp.up_proj.weight"],
        base["model.layers.0.mlp.up_proj.weight"],
    )


def test_a_tuned_tower_inside_the_checkpoint_is_the_one_taken(tmp_path, clip):
    tensors = write_original(tmp_path / "in")
    tower = {
        f"model.vision_tower.vision_tower.{name}": (2 * tensor).half()
        for name, tensor in tensors_of(clip).items()
        if name.startswith("vision_model.")
    }
    torch.save(tensors | tower, tmp_path / "in" / "pytorch_model.bin")
    convert(tmp_path / "in", tmp_path / "ours", vision_tower=clip)
    name = "vision_model.embeddings.class_embedding"
    ours = tensors_of(tmp_path / "ours")
    assert torch.equal(
        ours[f"vision_tower.{name}"], tower[f"model.vision_tower.vision_tower.{name}"]
    )
    convert(tmp_path / "ours", tmp_path / "back", to="original")
    same_tensors(tensors_of(tmp_path / "back"), tensors | tower)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"use_multilayer_features": True}, "use_multilayer_features.*LayerNorm"),
        ({"add_registers": True}, "register tokens"),
        ({"mm_projector_type": "linear"}, "only LLaVA-1.5's 'mlp2x_gelu'"),
        ({"model_type": "llava_mpt"}, "'llava_mpt'; Llama and Mistral"),
        ({"mm_vision_select_feature": "all"}, "'patch' and 'cls_patch'"),
        (
            {
                "normalize_projector": True,
                "compression_after_projection": True,
                "final_spatial_size": 4,
            },
            "normalises tokens before it pools",
        ),
    ],
)
def test_what_our_architecture_does_not_have_is_refused(tmp_path, clip, flags, message):
    write_original(tmp_path / "in", **flags)
    with pytest.raises(UnsupportedError, match=message) as error:
        convert(tmp_path / "in", tmp_path / "out", vision_tower=clip)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_missing_tower_or_one_that_is_no_clip_is_said(tmp_path, clip):
    write_original(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"openai/clip-tiny with --vision-tower"):
        convert(tmp_path / "in", tmp_path / "out")
    siglip = write_vision_tower(tmp_path / "siglip", "siglip")
    with pytest.raises(UnsupportedError, match="uses CLIP towers"):
        convert(tmp_path / "in", tmp_path / "out", vision_tower=siglip)


def test_a_pickle_that_runs_code_is_not_read(tmp_path, clip):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write_original(tmp_path / "in")
    torch.save({"model.norm.weight": Evil()}, tmp_path / "in" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        convert(tmp_path / "in", tmp_path / "out", vision_tower=clip)
    assert not (tmp_path / "ran").exists()


def test_a_lost_shard_a_lost_tensor_and_a_damaged_file_are_said(tmp_path, clip):
    write_original(tmp_path / "in", shards=3)
    (tmp_path / "in" / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-00002-of-00003\.bin"):
        convert(tmp_path / "in", tmp_path / "out", vision_tower=clip)
    tensors = write_original(tmp_path / "lost")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    torch.save(tensors, tmp_path / "lost" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*layers\.1\.mlp\.up_proj"):
        convert(tmp_path / "lost", tmp_path / "out", vision_tower=clip)
    (tmp_path / "lost" / "pytorch_model.bin").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        convert(tmp_path / "lost", tmp_path / "out", vision_tower=clip)
    assert not (tmp_path / "out").exists()
