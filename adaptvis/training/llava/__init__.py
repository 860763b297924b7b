"""The two stages of LLaVA's training, on transformers.Trainer."""

from adaptvis.training.llava.overrides import override
from adaptvis.training.llava.recipe import RECIPES, Recipe, load_recipe
from adaptvis.training.llava.run import run_recipe
from adaptvis.training.llava.stage import Settings

__all__ = ["RECIPES", "Recipe", "Settings", "load_recipe", "override", "run_recipe"]
