"""Training of the embedded tiny LLaVA from scratch, on one CPU thread."""

from adaptvis.training.tiny.recipe import RECIPES, Recipe, load_recipe
from adaptvis.training.tiny.run import run_recipe

__all__ = ["RECIPES", "Recipe", "load_recipe", "run_recipe"]
