"""The loop: schedule, determinism, learning, resuming, recipes, export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from adaptvis.data import two_ds_samples
from adaptvis.data.prior import PRIOR_TABLE
from adaptvis.errors import CheckpointError, ConfigError
from adaptvis.training.tiny import RECIPES, Recipe, load_recipe, run_recipe
from adaptvis.training.tiny import run as run_module
from adaptvis.training.tiny.export import classic_key, export, load_float32
from adaptvis.training.tiny.loop import Trainer, learning_rate, match_norm
from adaptvis.training.tiny.model import build_model, sincos_positions
from adaptvis.training.tiny.packing import patch_features
from adaptvis.training.tiny.recipe import ShortcutStage, Stage, TowerStage
from adaptvis.training.tiny.stream import prior_batch, replaced_batch
from adaptvis.training.tiny.validate import accuracy, prior_validation_batch, validation_batch

GROUPS = {"what": 1.0, "where": 1.0, "relation": 1.0, "yes_no": 1.0}


def small(steps: int = 6) -> Recipe:
    """A recipe with every kind of stage, a few steps each."""
    common = {"steps": steps, "images": 4, "questions": 4, "warmup": 2}
    return Recipe(
        name="small",
        validate_every=steps,
        stages=(
            TowerStage(name="tower", steps=steps, batch=8, learning_rate=2e-3, warmup=2),
            Stage(name="scenes", learning_rate=2e-3, groups=GROUPS, objects={2: 1, 3: 1}, **common),
            ShortcutStage(name="shortcut", learning_rate=1e-3, **common),
        ),
    )


def trained(folder: Path | None, recipe: Recipe, seed: int = 0) -> Trainer:
    trainer = Trainer(build_model(seed), recipe, seed, folder)
    trainer.run(lambda line: None, lambda: "", checkpoint_every=2)
    return trainer


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in trainer.parameters()])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(build_model(1), tmp_path_factory.mktemp("model"))


def test_same_seed_same_weights() -> None:
    first, second, other = (trained(None, small(2), seed) for seed in (0, 0, 1))
    assert torch.equal(weights_of(first), weights_of(second))
    assert not torch.equal(weights_of(first), weights_of(other))


def test_loss_falls_on_each_stage() -> None:
    trainer = Trainer(build_model(0), small(20), 0)
    for stage in range(2):
        trainer.stage, trainer.step = stage, 0
        losses = [trainer.train_step() for _ in range(20)]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = small(4)
    whole = weights_of(trained(None, recipe))
    first = Trainer(build_model(0), recipe, 0, tmp_path)
    for _ in range(4):
        first.train_step()
    first.stage, first.step = 1, 0
    first._reset_optimizer()
    for _ in range(3):
        first.train_step()
    first.save()
    second = Trainer(build_model(5), recipe, 0, tmp_path)
    assert second.resume()
    assert (second.stage, second.step) == (1, 3)
    second.run(lambda line: None, lambda: "")
    assert torch.equal(weights_of(second), whole)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    Trainer(build_model(0), small(), 0, tmp_path).save()
    with pytest.raises(CheckpointError, match="seed 0, not to 'small', seed 1"):
        Trainer(build_model(1), small(), 1, tmp_path).resume()
    assert not Trainer(build_model(1), small(), 1, tmp_path / "none").resume()


def test_schedule_warms_up_holds_and_decays() -> None:
    stage = Stage(
        name="s", steps=100, learning_rate=1.0, warmup=10, constant=0.5, groups=GROUPS,
        objects={2: 1},
    )  # fmt: skip
    rates = [learning_rate(stage, k) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[-1] < 0.06
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_matched_norms_are_those_of_words() -> None:
    model = build_model(0)
    pixels = torch.randn(2, 3, 56, 56)
    match_norm(model, pixels)
    with torch.no_grad():
        image = model.model.multi_modal_projector(patch_features(model, pixels)).norm(dim=-1)
    words = model.model.language_model.embed_tokens.weight.norm(dim=-1)
    assert image.mean().item() == pytest.approx(words.mean().item(), rel=1e-3)


def test_shortcut_batches_follow_the_table() -> None:
    batch = prior_batch("k", 8, 4, {2: 1, 3: 1, 4: 1}, (0.05, 0.4), (20.0, 60.0))
    questions = [q for asked in batch.questions for q in asked]
    assert len(questions) >= 24
    assert all(PRIOR_TABLE.answer(q.text) == q.answer for q in questions)


def test_replaced_answers_are_the_tables() -> None:
    size = (6, 4, {3: 1.0})
    always = [q for a in replaced_batch("r", *size, 1.0).questions for q in a]
    never = [q for a in replaced_batch("r", *size, 0.0).questions for q in a]
    assert len(always) >= 12
    assert all(PRIOR_TABLE.answer(q.text) == q.answer for q in always)
    assert any(PRIOR_TABLE.answer(q.text) != q.answer for q in never)


def test_a_stage_can_stop_early_on_the_schedule_of_its_full_length() -> None:
    stage = small(6).stages[1].model_copy(update={"stop": 3})
    recipe = small(6).model_copy(update={"stages": (stage,)})
    trainer = Trainer(build_model(0), recipe, 0)
    lines: list[str] = []
    trainer.run(lines.append, lambda: "")
    assert lines[-1].startswith("scenes 3/3")


def test_shipped_recipes_load_and_unknown_ones_are_listed() -> None:
    assert {"tiny-2ds", "tiny-2ds-shortcut"} <= set(RECIPES)
    for name in RECIPES:
        assert load_recipe(name).name == name
    with pytest.raises(ConfigError, match="tiny-2ds-shortcut"):
        load_recipe("tiny-2dz")
    with pytest.raises(CheckpointError, match=r"continues 'tiny-2ds'.*seed 99"):
        run_recipe("tiny-2ds-shortcut", "unused", seed=99)


def test_run_recipe_from_start_to_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_recipe", lambda name: small(2))
    monkeypatch.setattr(run_module, "validation_batch", lambda: validation_batch(4))
    lines: list[str] = []
    folder = run_recipe("small", tmp_path / "out", 0, progress=lines.append)
    assert any("relation" in line for line in lines)
    assert not (folder / "checkpoint.safetensors").exists()
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    samples = two_ds_samples("test", 0, 1)[:4]
    inputs = processor(
        images=[s.image for s in samples],
        text=[f"USER: <image>\n{s.question} ASSISTANT:" for s in samples],
        padding=True,
        return_tensors="pt",
    )
    assert (inputs.input_ids == 4).sum(1).tolist() == [49] * 4
    assert inputs.attention_mask[:, -1].all()
    output = model.generate(**inputs, max_new_tokens=2)
    assert output.shape[0] == 4


def test_shortcut_validation_images_are_clean_and_complete() -> None:
    batch = prior_validation_batch("conflicting", 5)
    assert batch.images.shape == (5, 56, 56, 3)
    assert [len(q) for q in batch.questions] == [3] * 5
    assert all(PRIOR_TABLE.answer(q.text) != q.answer for asked in batch.questions for q in asked)
    shares = accuracy(build_model(0), batch, 3)
    assert set(shares) == {"where", "relation", "yes_no", "all"}


def test_exported_model_reloads_with_equal_logits(exported: Path) -> None:
    model, report = LlavaForConditionalGeneration.from_pretrained(
        exported, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    reference = build_model(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16())
    inputs = {
        "input_ids": torch.tensor([[2, 5, 7, *[4] * 49, 12, 13, 8]]),
        "pixel_values": torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, reference(**inputs).logits)


def test_exported_keys_are_the_classic_ones(exported: Path) -> None:
    with safe_open(exported / "model.safetensors", framework="pt") as file:
        keys = set(file.keys())
        assert file.get_tensor("language_model.lm_head.weight").dtype == torch.bfloat16
    assert "vision_tower.vision_model.embeddings.class_embedding" in keys
    assert "language_model.model.layers.3.mlp.down_proj.weight" in keys
    assert "multi_modal_projector.linear_1.weight" in keys
    assert (exported / "model.safetensors").stat().st_size < 3_100_000
    config = json.loads((exported / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]


def test_processor_pixels_equal_the_training_pixels(exported: Path) -> None:
    processor = AutoProcessor.from_pretrained(exported, local_files_only=True)
    image = two_ds_samples("test", 0, 1)[0].image
    got = processor.image_processor(image, return_tensors="pt").pixel_values[0]
    raw = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(56, 56, 3)
    torch.testing.assert_close(got, ((raw / 255 - 0.5) / 0.25).permute(2, 0, 1))


def test_chat_template_is_the_training_prompt(exported: Path) -> None:
    processor = AutoProcessor.from_pretrained(exported, local_files_only=True)
    content = [{"type": "image"}, {"type": "text", "text": "Where is the cross?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert text == "USER: <image>\nWhere is the cross? ASSISTANT:"


def test_helpers_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train the base recipe first"):
        load_float32(tmp_path)
    with pytest.raises(CheckpointError, match="classic layout"):
        classic_key("visual.weight")
    code = sincos_positions(7, 128)
    assert code.shape == (49, 128)
    assert code.abs().max() <= 1
    assert torch.unique(code, dim=0).shape[0] == 49
