"""A run: what it changes, what it leaves alone, what it writes, and how it refuses."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis.errors import (
    AdaptVisWarning,
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    UnsupportedError,
)
from adaptvis.training.llava import Settings, disk, override, run_recipe
from adaptvis.training.llava.callbacks import Guard, TrainingStopped
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
    # The Trainer switches the cache off, for itself; nobody else should find that in the file.
    assert "use_cache" not in json.loads((multilayer / "config.json").read_text())
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
    peak = record["recipe"]["stages"][1]["learning_rate"]
    expected = [0.0, *(peak * (1 + math.cos(math.pi * s / 4)) / 2 for s in range(4))]
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


def test_a_loss_that_is_not_finite_stops_and_names_the_checkpoint_that_is_kept(small, tmp_path):
    """Then a lower learning rate brings the run to its end."""
    high = ("stages.stage-2.learning_rate=1e18", "stages.stage-2.save_every=1")
    output = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=r"step \d+ of stage-2.*lower learning") as caught:
        run_recipe(small("tiny-2ds-normalize", *high), output, Settings(seed=1))
    kept = last_complete(output / "stage-2")
    assert kept is not None
    assert str(kept) in str(caught.value)
    state = load_file(kept / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert not (output / "config.json").exists()
    # The first step, of rate 0 in the warm-up, is the only one that is worth keeping.
    for folder in (output / "stage-2").glob("checkpoint-*"):
        if step_of(folder) > 1:
            shutil.rmtree(folder)
    lower = (high[1], "stages.stage-2.learning_rate=1e-4", "stages.stage-2.max_grad_norm=0.5")
    run_recipe(small("tiny-2ds-normalize", *lower), output, Settings(seed=1), resume=True)
    record = json.loads((output / "training.json").read_text())
    assert record["status"] == "finished"
    (change,) = record["changed"]
    assert change["behind"] == "stage-2/checkpoint-1"
    assert "recipe.stages[1].learning_rate was 1e+18, now 0.0001" in change["settings"]
    assert record["recipe"]["stages"][1]["learning_rate"] == 1e-4
    lines = [json.loads(x) for x in (output / "train_log.jsonl").read_text().splitlines()]
    rates = [x["learning_rate"] for x in lines if x["stage"] == "stage-2" and x["step"] > 1]
    # Step 1 of 5 was the warm-up; a cosine over the other four, from the new peak.
    assert rates == pytest.approx([1e-4 * (1 + math.cos(math.pi * s / 4)) / 2 for s in range(4)])


def test_a_loss_that_is_not_finite_before_any_checkpoint_says_so(tmp_path):
    guard = Guard("stage-1", tmp_path, "stages.stage-1.learning_rate")
    with pytest.raises(TrainingStopped, match=r"no checkpoint of this stage.*learning_rate=0.001"):
        guard.on_log(
            SimpleNamespace(learning_rate=2e-3),
            SimpleNamespace(global_step=3),
            None,
            {"loss": math.nan},
        )


def test_tensorboard_gets_the_loss(small, tmp_path):
    output = run_recipe(
        small("tiny-2ds-baseline"), tmp_path / "run", Settings(1, 1, ("tensorboard",))
    )
    assert list(output.glob("**/events.out.tfevents.*"))


def given(small, tmp_path, *entries):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (56, 56)).save(tmp_path / "images" / "there.png")
    (tmp_path / "data.json").write_text(json.dumps(entries))
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
    assert not (tmp_path / "run").exists()


def conversation(answer, number=0, question="what?"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "conversations": turns}


def test_a_stage_without_anything_to_learn_is_refused(small, tmp_path):
    recipe = given(small, tmp_path, *(conversation("", i) for i in range(30)))
    with pytest.raises(DataError, match=r"No conversation of stage-2 has anything to learn"):
        run_recipe(recipe, tmp_path / "run", Settings(seed=1))
    assert not (tmp_path / "run").exists()


def test_a_step_without_a_trained_token_adds_nothing(small, tmp_path):
    entries = [conversation("", i) for i in range(25)] + [conversation("red")]
    recipe = override(
        given(small, tmp_path, *entries),
        [f"stages.stage-2.{name}=1" for name in ("global_batch", "per_device_batch")],
    )
    recipe = override(recipe, ["stages.stage-2.steps=3"])
    with pytest.warns(AdaptVisWarning, match=r"^25 of 26 conversations of stage-2"):
        output = run_recipe(recipe, tmp_path / "run", Settings(seed=1))
    lines = [json.loads(x) for x in (output / "train_log.jsonl").read_text().splitlines()]
    assert 0.0 in [x["loss"] for x in lines]
    assert all(math.isfinite(x["loss"]) and math.isfinite(x["grad_norm"]) for x in lines)


def test_fatal_problems_are_found_behind_many_that_are_not(small, tmp_path):
    torn = {**conversation("red", question="<image>\nwhat?"), "image": "gone.png"}
    recipe = given(small, tmp_path, *(conversation("", i) for i in range(25)), torn)
    with pytest.raises(DataError, match=r"gone.png"):
        run_recipe(recipe, tmp_path / "run", Settings(seed=1))


def test_a_refused_run_leaves_what_was_there_and_can_be_mended(small, tmp_path):
    recipe = given(small, tmp_path, conversation(""))
    output = tmp_path / "run"
    output.mkdir()
    (output / ".mine").write_text("kept")
    for resume in (False, True):
        with pytest.raises(DataError):
            run_recipe(recipe, output, Settings(seed=1), resume=resume)
        assert [p.name for p in output.iterdir()] == [".mine"]
    (tmp_path / "data.json").write_text(json.dumps([conversation("red")]))
    # As a process that was killed while it looked at the data leaves it.
    (output / "training.json").write_text(
        json.dumps({"recipe": recipe.model_dump(mode="json"), "seed": 7, "data": {"stage-2": "x"}})
    )
    (output / "data" / "stage-1").mkdir(parents=True)
    run_recipe(recipe, output, Settings(seed=1, max_steps=1))
    record = json.loads((output / "training.json").read_text())
    assert (record["seed"], record["status"]) == (1, "finished")


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
    with pytest.raises(OutputError, match=r"need about \d+\.\d MB in .*, and 0\.0 MB are free"):
        run_recipe(small(), tmp_path / "deep" / "run", Settings(seed=1))
    assert not (tmp_path / "deep").exists()


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
