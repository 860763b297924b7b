"""Which parameters a stage trains; all others are frozen."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adaptvis.errors import ConfigError
from adaptvis.training.llava.recipe import Lora, Recipe, Stage

__all__ = ["parts_of", "prepare", "trainable_parameters"]


def parts_of(model: PreTrainedModel) -> dict[str, tuple[nn.Module, ...]]:
    """The parts that a recipe can name; the output head belongs to the language model."""
    return {
        "projector": (model.model.multi_modal_projector,),
        "language_model": (model.model.language_model, model.lm_head),
    }


def prepare(model: PreTrainedModel, recipe: Recipe, stage: Stage) -> Any:
    """Freeze what the stage does not train; with LoRA, returns the model with its adapters.

    Raises:
        ConfigError: LoRA is wanted and peft is not installed.
    """
    model.requires_grad_(False)
    parts = parts_of(model)
    for name in stage.trains:
        if name == "language_model" and recipe.uses_lora(stage):
            continue
        for module in parts[name]:
            module.requires_grad_(True)
    if recipe.lora is not None and recipe.uses_lora(stage):
        return _with_adapters(model, recipe.lora, stage)
    return model


def _with_adapters(model: PreTrainedModel, lora: Lora, stage: Stage) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError(
            "LoRA needs peft, which is not installed; pip install 'adaptvis[train]' brings it"
        ) from None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        modules_to_save=["multi_modal_projector"] if "projector" in stage.trains else None,
    )
    return get_peft_model(model, config)


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that have a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
