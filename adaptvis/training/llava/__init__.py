"""The two stages of LLaVA's training, on transformers.Trainer.

Names that need the Trainer are loaded when they are used: it takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adaptvis.training.llava.overrides import override
from adaptvis.training.llava.recipe import RECIPES, Recipe, load_recipe

if TYPE_CHECKING:
    from adaptvis.training.llava.run import run_recipe
    from adaptvis.training.llava.stage import Settings

__all__ = ["RECIPES", "Recipe", "Settings", "load_recipe", "override", "run_recipe"]

_LATE = {
    "Settings": "adaptvis.training.llava.stage",
    "run_recipe": "adaptvis.training.llava.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
