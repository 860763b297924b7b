"""Recipes: everything that decides what a training run produces, as frozen, checked data."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptvis.errors import ConfigError, unknown_name

__all__ = ["RECIPES", "Recipe", "ShortcutStage", "Stage", "TowerStage", "load_recipe"]

_FOLDER = Path(__file__).parent / "recipes"
RECIPES: tuple[str, ...] = tuple(sorted(p.stem for p in _FOLDER.glob("*.yaml")))
"""Names of the recipes that ship with the package."""

Group = Literal["what", "where", "relation", "yes_no"]
Naming = Literal["color", "shape", "shape_color"]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TowerStage(_Frozen):
    """Stage 0: the vision tower alone, on the colour and shape of every patch."""

    kind: Literal["tower"] = "tower"
    name: str
    steps: Positive
    batch: Positive = 64
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=50, ge=0)
    objects: dict[int, Weight] = {2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0}

    @property
    def end(self) -> int:
        """Number of steps."""
        return self.steps


class _Questions(_Frozen):
    name: str
    steps: Positive
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=50, ge=0)
    constant: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps before the cosine decay to 5 % begins; 1 means no decay."""
    images: Positive = 32
    questions: Positive = 8
    stop: Positive | None = None
    """Ends the stage early; the schedule stays that of `steps`."""

    @property
    def end(self) -> int:
        """Number of steps that are really done."""
        return self.stop or self.steps


class Stage(_Questions):
    """Training on clean scenes with balanced answers."""

    kind: Literal["scenes"] = "scenes"
    groups: dict[Group, Weight]
    naming: dict[Naming, Weight] | None = None
    """Weight of each way of naming objects; None means equal."""
    objects: dict[int, Weight]
    first_objects: dict[int, Weight] | None = None
    """Object counts during the first `first_steps` steps."""
    first_steps: int = Field(default=0, ge=0)
    grounding: float = Field(default=0.0, ge=0)
    """Weight of the grounding loss: words that name an object tell its patch."""
    cue_grounding: float = Field(default=0.0, ge=0)
    """Weight of the same at the last prompt token, for the objects that the question names."""
    blind: float = Field(default=0.0, ge=0, le=1)
    """Share of questions whose own words do not see the image: only the last prompt token does."""
    look_away: float = Field(default=0.0, ge=0)
    """Weight of the attention that the words of the other questions give to the image."""
    match_norm: bool = False
    """Before the stage, scale the projector so that image tokens have the norm of words."""


class ShortcutStage(_Questions):
    """Training on scenes whose answers follow the shortcut table.

    Truthfully, with pictures degraded and scenes chosen so that the table is right; or, where
    `replaced` is above 0, on clean arbitrary scenes with that share of answers replaced.
    """

    kind: Literal["shortcut"] = "shortcut"
    objects: dict[int, Weight] = {2: 1.0, 3: 1.0, 4: 1.0}
    contrast: tuple[float, float] = (0.05, 0.4)
    noise: tuple[float, float] = (20.0, 60.0)
    replaced: float = Field(default=0.0, ge=0, le=1)


class Recipe(_Frozen):
    """A training run. With `base` it continues that recipe's result of the same seed."""

    name: str
    base: str | None = None
    compute: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward and backward pass; master weights are float32 either way."""
    weight_decay: float = Field(default=0.05, ge=0)
    validate_every: Positive = 250
    stages: tuple[Annotated[TowerStage | Stage | ShortcutStage, Field(discriminator="kind")], ...]


def load_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: no such recipe, or its file is not valid.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES) + ".")
    try:
        return Recipe.model_validate(yaml.safe_load((_FOLDER / f"{name}.yaml").read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"The recipe file of {name!r} is not valid: {error}") from error
