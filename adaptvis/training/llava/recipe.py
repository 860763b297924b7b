"""Recipes of the two-stage training: everything that decides a result, as frozen, checked data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptvis.errors import ConfigError, unknown_name
from adaptvis.unique_keys import yaml_value

__all__ = [
    "RECIPES",
    "Base",
    "GeneratedData",
    "GivenData",
    "Lora",
    "Recipe",
    "Stage",
    "load_recipe",
    "recipe_from",
]

_FOLDER = Path(__file__).parent / "recipes"
RECIPES: tuple[str, ...] = tuple(sorted(p.stem for p in _FOLDER.glob("*.yaml")))
"""Names of the recipes that ship with the package."""

Positive = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(_Frozen):
    """Where the parts come from; each an embedded model's name, a folder or a hub id.

    `{parity}` in a name stands for the run's seed modulo 2.
    """

    language_model: str
    vision_tower: str


class GivenData(_Frozen):
    """A LLaVA-format JSON file and the folder that its image paths are relative to."""

    kind: Literal["given"] = "given"
    path: Path | None = None
    images: Path | None = None
    needs: str = ""
    """What to give, for messages and the list of recipes."""


class GeneratedData(_Frozen):
    """Questions about generated 2DS scenes; written into the output folder before the stage."""

    kind: Literal["two_ds"] = "two_ds"
    images: Positive
    questions_per_image: Positive = 6
    turns: Positive = 1
    """Questions of an image that form one conversation."""
    objects: dict[int, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each number of objects in a scene; None: the generator's own."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """None: a seed of the run's own, another in every stage."""


class Lora(_Frozen):
    """Low-rank adapters on the language model's linear layers, merged when the stage is done."""

    rank: Positive = 128
    alpha: Positive = 256
    dropout: Share = 0.05
    learning_rate: PositiveNumber | None = 2e-4
    """Replaces the stage's; None keeps that."""
    projector_learning_rate: PositiveNumber | None = 2e-5
    """Of a projector that is trained along; None: the adapters'."""


class Stage(_Frozen):
    """One stage: what is trained, on which data, for how long."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    trains: tuple[Literal["projector", "language_model"], ...] = Field(min_length=1)
    data: Annotated[GivenData | GeneratedData, Field(discriminator="kind")]
    limit: Positive | None = None
    """Use only that many conversations."""
    learning_rate: PositiveNumber
    global_batch: Positive
    """Conversations per optimiser step over all processes and accumulation steps."""
    per_device_batch: Positive
    epochs: PositiveNumber | None = None
    steps: Positive | None = None
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: tuple[Share, Share] = (0.9, 0.999)
    max_grad_norm: PositiveNumber = 1.0
    prompt_style: Literal["chat", "plain"] = "chat"
    image_aspect_ratio: Literal["crop", "pad"] = "crop"
    """Of images that are not square: the middle is cut out, or they are padded to a square. The
    finished model's processor does what the last stage does."""
    max_length: Positive | None = 2048
    """In tokens, image tokens included; longer conversations are cut at the end."""
    group_by_modality_length: bool = False
    save_every: Positive = 500
    """Steps between checkpoints."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read data, for each training process."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name!r} needs either epochs or steps, not both")
        if self.global_batch % self.per_device_batch:
            raise ValueError(
                f"stage {self.name!r}: global_batch {self.global_batch} is no multiple of "
                f"per_device_batch {self.per_device_batch}"
            )
        return self


class Recipe(_Frozen):
    """A training run: parts, architecture, precision, stages."""

    name: str
    produces: str
    """One line for the list of recipes."""
    base: Base
    normalize: bool = False
    target_mean: PositiveNumber | None = None
    """None: the mean L2 norm of the language model's embedding table."""
    max_norm: PositiveNumber | None = None
    """None: the table's largest norm."""
    vision_feature_layers: int | tuple[int, ...] | None = None
    """Hidden states of the tower, 0 being the embeddings; several are concatenated. None: the
    second last, as LLaVA."""
    compression: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the arithmetic; master weights are float32 either way."""
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the finished model."""
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    """In stages that train the language model."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages must have different names, got {', '.join(names)}")
        return self

    def stage_learning_rate(self, stage: Stage) -> float:
        """The peak learning rate: LoRA's own where the stage uses LoRA."""
        if self.uses_lora(stage) and self.lora and self.lora.learning_rate:
            return self.lora.learning_rate
        return stage.learning_rate

    def projector_learning_rate(self, stage: Stage) -> float | None:
        """The projector's own peak learning rate, or None where it has the stage's."""
        if self.uses_lora(stage) and self.lora and "projector" in stage.trains:
            return self.lora.projector_learning_rate
        return None

    def uses_lora(self, stage: Stage) -> bool:
        """Whether the stage trains the language model through adapters."""
        return self.lora is not None and "language_model" in stage.trains


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, or of that YAML file.

    Raises:
        ConfigError: no such recipe, or its file is not valid.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in RECIPES:
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError(unknown_name("recipe", name, RECIPES, "(or give a YAML file)"))
    try:
        return recipe_from(yaml_value(path.read_text(encoding="utf-8-sig")), str(path.name))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"The recipe file {path} cannot be read: {reason}") from None


def recipe_from(values: Any, where: str) -> Recipe:
    """A recipe from plain values.

    Raises:
        ConfigError: the first thing that is wrong with them.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "recipe"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where} is no valid recipe: {place}: {message}") from None
