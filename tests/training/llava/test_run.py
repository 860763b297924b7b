"""A run: what it changes, what it leaves alone, what it writes, and how it refuses."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis.errors import CheckpointError, ConfigError, DataError, OutputError, UnsupportedError
from adaptvis.training.llava import Settings, disk, override, run_recipe
from adaptvis.training.llava.callbacks import TrainingStopped
from adaptvis.training.llava.checkpoints import last_complete, step_of
from adaptvis.training.llava.finish import whole_model

PROJECTOR = "multi_modal_projector."


@pytest.fixture(scope="module")
def multilayer(small, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "model"
    return run_recipe(small("tiny-2ds-normalize-multilayer"), output, Settings(seed=1))


def weights(folder):
    return {
        name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }


def changed(before, after):
    return {name for name in before if name in after and not torch.equal(before[name], after[name])}


def test_stage_1_changes_the_projector_and_nothing_else(multilayer, embedded):
    base, first = weights(embedded), weights(multilayer / "stage-1" / "model")
    assert all(name.startswith(PROJECTOR) for name in changed(base, first) | (first.keys() - base))
    assert first[f"{PROJECTOR}linear_1.weight"].shape == (128, 4 * 128)


def test_stage_2_changes_every_language_model_tensor_and_not_the_tower(multilayer):
    first, second = weights(multilayer / "stage-1" / "model"), weights(multilayer)
    moved = changed(first, second)
    assert moved == {name for name in first if not name.startswith("vision_tower.")}


def test_the_result_loads_and_generates(multilayer):
    model = AutoModelForImageTextToText.from_pretrained(multilayer)
    processor = AutoProcessor.from_pretrained(multilayer)
    assert model.config.vision_feature_layer == [1, 2, 3, 4]
    assert model.config.normalize
    assert model.dtype == torch.float32
    inputs = processor(
        images=Image.new("RGB", (56, 56)),
        text="USER: <image>\nwhat? ASSISTANT:",
        return_tensors="pt",
    )
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_the_record_says_what_ran_and_the_log_has_every_step(multilayer, small):
    record = json.loads((multilayer / "training.json").read_text())
    assert record["recipe"] == small("tiny-2ds-normalize-multilayer").model_dump(mode="json")
    assert (record["seed"], record["status"], record["processes"]) == (1, "finished", 1)
    assert record["verified"] == "logits equal bit for bit"
    assert set(record["data"]) == {"stage-1", "stage-2"}
    assert {"torch", "transformers", "accelerate"} <= record["versions"].keys()
    lines = [json.loads(x) for x in (multilayer / "train_log.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["step"]) for x in lines] == [
        *(("stage-1", s) for s in (1, 2)),
        *(("stage-2", s) for s in (1, 2, 3, 4, 5)),
    ]
    # 3 % of 5 steps is one step of warm-up, from 0; then a cosine over the other four.
    rates = [x["learning_rate"] for x in lines if x["stage"] == "stage-2"]
    expected = [0.0, *(3e-4 * (1 + math.cos(math.pi * s / 4)) / 2 for s in range(4))]
    assert rates == pytest.approx(expected)


def test_gathered_shards_become_the_same_whole_model(multilayer):
    model = AutoModelForImageTextToText.from_pretrained(multilayer)
    whole = whole_model(model.config, model.state_dict())
    ids = torch.tensor([[2, 5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(whole.eval()(input_ids=ids).logits, model(input_ids=ids).logits)


def test_lora_is_merged_and_leaves_tables_and_tower_alone(small, tmp_path):
    recipe = small("tiny-2ds-baseline", "lora.rank=4", "stages.stage-2.learning_rate=1e-3")
    output = run_recipe(recipe, tmp_path / "run", Settings(seed=1, max_steps=2))
    first, second = weights(output / "stage-1" / "model"), weights(output)
    assert first.keys() == second.keys()
    linear = {n for n in first if n.startswith("language_model") and "_proj." in n}
    projector = {n for n in first if n.startswith(PROJECTOR)}
    assert changed(first, second) == linear | projector
    name = next(iter(sorted(linear)))
    difference = second[name] - first[name]
    # What was added is a product of rank 4; the rest is rounding.
    values = torch.linalg.svdvals(difference.double())
    assert values[4] < 1e-3 * values[0]


BF16 = ("precision=bfloat16", "save_dtype=bfloat16")


@pytest.mark.parametrize(
    "settings",
    [BF16, BF16[:1], BF16[1:], (*BF16, "gradient_checkpointing=true"), (*BF16, "lora.rank=4")],
)
def test_a_run_in_bfloat16_ends_with_a_checked_model(small, tmp_path, settings):
    recipe = small("tiny-2ds-normalize", *settings)
    output = run_recipe(recipe, tmp_path / "run", Settings(seed=1, max_steps=1))
    assert json.loads((output / "training.json").read_text())["status"] == "finished"
    dtypes = {tensor.dtype for tensor in load_file(output / "model.safetensors").values()}
    assert dtypes == {getattr(torch, recipe.save_dtype)}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(small, tmp_path):
    recipe = small(
        "tiny-2ds-normalize", "stages.stage-2.steps=40", "stages.stage-2.learning_rate=1e18"
    )
    output = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=r"step \d+ of stage-2.*lower learning"):
        run_recipe(recipe, output, Settings(seed=1))
    kept = last_complete(output / "stage-2")
    if kept is not None:
        state = load_file(kept / "model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
        assert step_of(kept) % 2 == 0
    assert not (output / "config.json").exists()


def test_tensorboard_gets_the_loss(small, tmp_path):
    output = run_recipe(
        small("tiny-2ds-baseline"), tmp_path / "run", Settings(1, 1, ("tensorboard",))
    )
    assert list(output.glob("**/events.out.tfevents.*"))


def given(small, tmp_path, entry):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (56, 56)).save(tmp_path / "images" / "there.png")
    (tmp_path / "data.json").write_text(json.dumps([entry]))
    data = f"{{kind: given, path: {tmp_path / 'data.json'}, images: {tmp_path / 'images'}}}"
    return small("tiny-2ds-baseline", f"stages.stage-2.data={data}")


@pytest.mark.parametrize(
    ("image", "text", "said"),
    [
        ("gone.png", "<image>\nwhat?", r"data.json.*0.*gone.png"),
        ("there.png", "<image> <image>\nwhat?", r"data.json.*0"),
        ("../data.json", "<image>\nwhat?", r"data.json.*0"),
    ],
)
def test_bad_conversations_are_found_before_the_first_step(small, tmp_path, image, text, said):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]
    recipe = given(small, tmp_path, {"id": "a", "image": image, "conversations": turns})
    with pytest.raises(DataError, match=said):
        run_recipe(recipe, tmp_path / "run", Settings(seed=1))
    assert not (tmp_path / "run" / "train_log.jsonl").exists()


def test_what_a_data_worker_raises_is_one_sentence(small, tmp_path):
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
    recipe = given(small, tmp_path, {"id": "a", "image": "half.png", "conversations": turns})
    recipe = override(recipe, ["stages.stage-2.workers=1"])
    whole = (tmp_path / "images" / "there.png").read_bytes()
    (tmp_path / "images" / "half.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(DataError) as caught:
        run_recipe(recipe, tmp_path / "run", Settings(seed=1, max_steps=1))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'data.json'}, ")
    assert "half.png" in str(caught.value)


def test_data_that_was_not_given_is_asked_for(small, tmp_path):
    recipe = small("tiny-2ds-baseline", "stages.stage-2.data={kind: given, needs: questions}")
    with pytest.raises(
        ConfigError, match=r"stage-2 .*questions.*--stage2-data and --stage2-images"
    ):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "error", "said"),
    [
        ("vision_feature_layers=[1, 5]", ConfigError, "5 is out of range"),
        ("base.vision_tower=nowhere", CheckpointError, "nowhere"),
    ],
)
def test_a_base_that_does_not_fit_is_told(small, tmp_path, setting, error, said):
    with pytest.raises(error, match=said):
        run_recipe(small("tiny-2ds-normalize-multilayer", setting), tmp_path / "run")


def test_a_base_of_another_architecture_is_told(small, tmp_path):
    from transformers import BertConfig, BertModel

    other = tmp_path / "bert"
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertModel(config).save_pretrained(other)
    with pytest.raises((UnsupportedError, CheckpointError), match="bert"):
        run_recipe(small("tiny-2ds-baseline", f"base.vision_tower={other}"), tmp_path / "run")


def test_too_little_disk_is_told_before_the_first_step(small, tmp_path, monkeypatch):
    usage = disk.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match="need about"):
        run_recipe(small(), tmp_path / "run", Settings(seed=1))
    assert not (tmp_path / "run" / "train_log.jsonl").exists()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(small, tmp_path, monkeypatch):
    save, written = torch.save, []

    def full(what, path, *more, **options):
        written.append(str(path))
        if "stage-2/checkpoint-4" in str(path):
            raise OSError(28, "No space left on device")
        save(what, path, *more, **options)

    monkeypatch.setattr(torch, "save", full)
    output = tmp_path / "run"
    with pytest.raises(OutputError, match=r"is full.*--resume"):
        run_recipe(small(), output, Settings(seed=1))
    assert step_of(last_complete(output / "stage-2")) == 2
