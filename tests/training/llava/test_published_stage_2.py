"""What LLaVA-1.5's stage 2 does beside its hyper-parameters: padding, and the projector's rate."""

import json

import pytest
import torch
from models.tiny_sources import llava_processor
from PIL import Image
from transformers import AutoProcessor

from adaptvis.training.llava import Settings, load_recipe, override, run_recipe
from adaptvis.training.llava.stage_data import Source, dataset_of
from adaptvis.training.llava.trainer import StageTrainer, training_arguments


def test_a_stage_trains_on_images_as_its_recipe_treats_them(tmp_path):
    Image.new("RGB", (96, 32), (255, 0, 0)).save(tmp_path / "wide.png")
    turns = [{"from": "human", "value": "<image>\nwhere"}, {"from": "gpt", "value": "left"}]
    entry = {"id": "0", "image": "wide.png", "conversations": turns}
    (tmp_path / "data.json").write_text(json.dumps([entry]))
    source = Source(tmp_path / "data.json", tmp_path, "")
    recipe = override(load_recipe("llava-1.5-7b-baseline"), ["stages.stage-2.prompt_style=plain"])
    first, second = (
        dataset_of(stage, source, llava_processor())[0]["pixel_values"].reshape(3, 32, 32)
        for stage in recipe.stages
    )
    assert torch.equal(first, first[:, :1, :1].expand_as(first))  # red everywhere
    # The mean colour, normalised, is about 0: above and below the image, not in it.
    assert second[:, 0].abs().max() < 0.02
    assert second[0, 16].min() > 1.5


@pytest.mark.parametrize("ratio", ["pad", "crop"])
def test_the_finished_model_treats_images_as_its_last_stage_did(small, tmp_path, ratio):
    recipe = small(
        "tiny-2ds-baseline",
        "stages.stage-1.image_aspect_ratio=crop",
        f"stages.stage-2.image_aspect_ratio={ratio}",
    )
    folder = run_recipe(recipe, tmp_path / "out", Settings(1, max_steps=1))
    loaded = AutoProcessor.from_pretrained(folder)
    assert bool(getattr(loaded.image_processor, "do_pad", False)) == (ratio == "pad")


def test_the_projector_beside_adapters_has_its_own_rate(small, tmp_path):
    recipe = small("tiny-2ds-baseline", "lora.rank=4")
    stage = recipe.stages[1]
    weights = torch.nn.ModuleDict(
        {"language_model": torch.nn.Linear(2, 2), "multi_modal_projector": torch.nn.Linear(2, 2)}
    )
    arguments = training_arguments(
        recipe, stage, tmp_path, seed=0, steps=2, total_steps=2, report_to=()
    )
    trainer = StageTrainer(model=weights, args=arguments, sampler=None)
    found = {}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = group["lr"]
    assert {found[id(p)] for p in weights["language_model"].parameters()} == {2e-4}
    assert {found[id(p)] for p in weights["multi_modal_projector"].parameters()} == {2e-5}
    assert len(found) == 4


def test_both_rates_follow_the_schedule_and_reach_the_weights(small, tmp_path):
    """A projector whose rate is next to nothing stays where it was; the adapters do not."""
    settings = ("lora.rank=4", "lora.projector_learning_rate=1e-12")
    recipe = small("tiny-2ds-baseline", *settings)
    folder = run_recipe(recipe, tmp_path / "out", Settings(1, max_steps=2))
    from safetensors.torch import load_file

    before = load_file(tmp_path / "out" / "stage-1" / "model" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    moved = {n: float((before[n].float() - after[n].float()).abs().max()) for n in before}
    assert max(v for n, v in moved.items() if "multi_modal_projector" in n) < 1e-9
    assert max(v for n, v in moved.items() if "q_proj" in n) > 1e-6
