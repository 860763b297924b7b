"""`adaptvis train` for LLaVAs in stages: options become the recipe, and what is refused."""

import io
import json
from pathlib import Path

import pytest
import yaml

from adaptvis.cli.training.two_stages import Given, recipe_of

SMALL = [
    *("--set", "stages.stage-1.data.images=4", "--set", "stages.stage-2.data.images=4"),
    *("--set", "stages.stage-1.global_batch=4", "--set", "stages.stage-1.per_device_batch=4"),
    *("--set", "stages.stage-2.global_batch=4", "--set", "stages.stage-2.per_device_batch=4"),
    *("--max-steps", "1"),
]


def test_the_list_says_what_recipes_produce_and_need(adaptvis):
    text = adaptvis("train", "--list").out
    for name in ("tiny-2ds", "tiny-2ds-normalize-multilayer", "llava-1.5-7b-baseline"):
        assert name in text
    for said in ("Normalize", "mix665k", "--dry-run", "a CPU"):
        assert said in text


@pytest.mark.parametrize("width", [100, 120, 200])
def test_the_list_shows_the_files_to_give_whole(width):
    from rich.console import Console

    from adaptvis.cli.training.recipes import recipes_table

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(recipes_table())
    lines = console.export_text().splitlines()
    left = lines[1].index("needs")
    needs = "".join(line[left:].strip() for line in lines[2:])
    assert "blip_laion_cc_sbu_558k.json" in needs
    assert "llava_v1_5_mix665k.json" in needs


def test_a_run_writes_a_model_and_shows_its_steps(adaptvis):
    done = adaptvis("train", "--recipe", "tiny-2ds-baseline", "--output", "m", *SMALL)
    assert (done.code, done.out.strip()) == (0, "Wrote m")
    assert "stage-1 1/1  loss" in done.err
    assert "samples/s" in done.err
    assert json.loads(Path("m/training.json").read_text())["status"] == "finished"
    assert Path("m/model.safetensors").is_file()
    again = adaptvis("train", "--recipe", "tiny-2ds-baseline", "--output", "m", *SMALL)
    assert again.code == 2
    assert "already holds" in again.err


def test_a_dry_run_needs_no_output_and_writes_nothing(adaptvis, tmp_path):
    done = adaptvis("train", "--recipe", "llava-1.5-7b-normalize", "--dry-run", "--gpus", 8)
    assert done.code == 0
    assert "7,062.9 M parameters" in done.out  # 6,738.4 Vicuna, 303.5 tower, 21.0 projector
    lines = [line.split() for line in done.out.splitlines() if "stage-2" in line]
    fits = {(x[1], x[2]): x[-1] for x in lines if x[0] == "stage-2" and len(x) > 5}
    assert fits["FSDP", "on"] == "yes"
    assert fits["DDP", "on"] == "no"
    many = adaptvis("train", "--recipe", "llava-1.5-7b-normalize", "--dry-run", "--gpus", 16)
    assert "takes 256 conversations per step, 16 at once" in " ".join(many.out.split())
    odd = adaptvis("train", "--recipe", "llava-1.5-7b-normalize", "--dry-run", "--gpus", 3)
    assert (odd.code, "cannot share evenly" in odd.err) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "tiny-2ds-normalise", "--output", "m"], "did you mean"),
        (["--recipe", "tiny-2ds", "--lora", "--output", "m"], "one CPU thread"),
        (["--recipe", "tiny-2ds", "--output", "m", "--max-steps", "3"], "no --max-steps"),
        (["--recipe", "tiny-2ds", "--output", "m", "--report-to", "wandb"], "no --report-to"),
        (["--recipe", "tiny-2ds", "--output", "m", "--gpus", "2"], "--dry-run"),
        (["--recipe", "tiny-2ds-baseline", "--output", "m", "--gpu-memory", "9"], "--dry-run"),
        (["--recipe", "tiny-2ds-baseline", "--output", "m", "--base", "x"], "--language-model"),
        (["--recipe", "llava-1.5-7b-baseline", "--dry-run", "--resume"], "writes nothing"),
        (["--recipe", "llava-1.5-7b-baseline", "--output", "m"], "--stage1-data"),
        (["--recipe", "tiny-2ds-baseline", "--output", "m", "--set", "x=1"], "Unknown field 'x'"),
        (["--recipe", "tiny-2ds-baseline", "--output", "m", "--report-to", "x"], "tensorboard"),
    ],
)
def test_refusals_are_one_sentence(adaptvis, arguments, said):
    done = adaptvis("train", *arguments)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not Path("m").exists()


def test_options_replace_base_data_and_lora(tmp_path):
    recipe = recipe_of(
        Given(
            "llava-1.5-7b-normalize",
            language_model="mine/llm",
            vision_tower="mine/tower",
            data=(tmp_path / "a.json", tmp_path / "b.json"),
            images=(None, tmp_path / "pictures"),
            lora=True,
        )
    )
    assert (recipe.base.language_model, recipe.base.vision_tower) == ("mine/llm", "mine/tower")
    first, second = (stage.data for stage in recipe.stages)
    assert (first.path, first.images) == (tmp_path / "a.json", tmp_path)
    assert (second.path, second.images) == (tmp_path / "b.json", tmp_path / "pictures")
    assert (recipe.lora.rank, recipe.lora.alpha) == (128, 256)
    assert recipe.stage_learning_rate(recipe.stages[0]) == 1e-3
    assert recipe.stage_learning_rate(recipe.stages[1]) == 2e-4


def test_launch_configurations_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    import adaptvis.training.llava as llava

    folder = Path(llava.__path__[0]) / "launch"
    kinds = {}
    for path in folder.glob("*.yaml"):
        kinds[path.stem] = load_config_from_file(str(path)).distributed_type.value
        config = yaml.safe_load(path.read_text())
        named = config.get("deepspeed_config", {}).get("deepspeed_config_file")
        if named:
            zero = json.loads((folder / named).read_text())["zero_optimization"]["stage"]
            assert path.stem == f"zero{zero}"
    assert kinds == {
        "fsdp": "FSDP",
        "fsdp-multi-node": "FSDP",
        "ddp-multi-node": "MULTI_GPU",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
    }
