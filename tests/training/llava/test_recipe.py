"""Recipes: the published figures, and what an invalid one is told."""

import pytest

from adaptvis.errors import ConfigError
from adaptvis.training.llava import RECIPES, load_recipe, override


@pytest.mark.parametrize("variant", ["baseline", "normalize", "normalize-multilayer"])
def test_7b_recipes_have_the_published_hyper_parameters(variant):
    recipe = load_recipe(f"llava-1.5-7b-{variant}")
    first, second = recipe.stages
    assert (first.trains, second.trains) == (("projector",), ("projector", "language_model"))
    assert (first.learning_rate, second.learning_rate) == (1e-3, 2e-5)  # appendix B, table 5
    assert (first.global_batch, second.global_batch) == (256, 128)
    assert (first.prompt_style, second.prompt_style) == ("plain", "chat")
    assert (first.group_by_modality_length, second.group_by_modality_length) == (False, True)
    for stage in recipe.stages:
        assert (stage.epochs, stage.schedule, stage.warmup) == (1, "cosine", 0.03)
        assert (stage.weight_decay, stage.max_length) == (0, 2048)
    # --image_aspect_ratio pad stands in the published finetune.sh and not in pretrain.sh.
    assert (first.image_aspect_ratio, second.image_aspect_ratio) == ("crop", "pad")
    assert recipe.normalize is (variant != "baseline")
    layers = (12, 16, 20, 24) if "multilayer" in variant else None
    assert recipe.vision_feature_layers == layers


def test_lora_has_the_published_rates_of_adapters_and_projector():
    recipe = override(load_recipe("llava-1.5-7b-baseline"), ["lora.dropout=0.05"])
    first, second = recipe.stages
    assert (recipe.lora.rank, recipe.lora.alpha) == (128, 256)
    assert (recipe.stage_learning_rate(second), recipe.projector_learning_rate(second)) == (
        2e-4,
        2e-5,
    )
    assert (recipe.stage_learning_rate(first), recipe.projector_learning_rate(first)) == (
        1e-3,
        None,
    )


def test_variants_differ_in_architecture_only():
    for family in ("llava-1.5-7b", "tiny-2ds"):
        plain = load_recipe(f"{family}-baseline")
        for variant in ("normalize", "normalize-multilayer"):
            other = load_recipe(f"{family}-{variant}")
            assert other.stages == plain.stages
            assert other.base == plain.base
            assert other.precision == plain.precision


def test_every_recipe_is_named_as_its_file():
    assert [load_recipe(name).name for name in RECIPES] == list(RECIPES)


def test_settings_reach_any_field_by_place_or_name():
    recipe = override(
        load_recipe("tiny-2ds-normalize"),
        [
            "stages.stage-1.learning_rate=2e-4",
            "stages.1.steps=7",
            "lora.rank=8",
            "lora.alpha=9",
            "vision_feature_layers=[1, 3]",
        ],
    )
    assert recipe.stages[0].learning_rate == 2e-4
    assert recipe.stages[1].steps == 7
    assert (recipe.lora.rank, recipe.lora.alpha) == (8, 9)
    assert recipe.vision_feature_layers == (1, 3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.stage-3.steps=1", "known are stage-1, stage-2"),
        ("stages.0.stepz=1", "did you mean 'steps'"),
        ("stages.0.steps=-1", "greater than 0"),
        ("stages.0.per_device_batch=7", "no multiple of per_device_batch 7"),
        ("stages.0.epochs=1", "either epochs or steps"),
        ("normalize", "path=value"),
        ("normalize.more=1", "nothing below"),
        ("lora.rankk=8", "lora.rankk"),
    ],
)
def test_a_wrong_setting_is_named(setting, said):
    with pytest.raises(ConfigError, match=said):
        override(load_recipe("tiny-2ds-normalize"), [setting])


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'tiny-2ds-normalize'"):
        load_recipe("tiny-2ds-normalise")


def test_a_yaml_file_is_a_recipe(tmp_path):
    import yaml

    recipe = load_recipe("tiny-2ds-baseline")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe


def test_a_setting_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nname: other\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        load_recipe(str(path))


def test_a_missing_yaml_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read: No such file or directory$"):
        load_recipe(str(path))
