"""Running a recipe from start to exported model."""

import os
from importlib.resources import files
from pathlib import Path

import torch

from adaptvis.errors import CheckpointError
from adaptvis.training.tiny.export import export, load_float32
from adaptvis.training.tiny.loop import Progress, Trainer
from adaptvis.training.tiny.model import build_model
from adaptvis.training.tiny.recipe import load_recipe
from adaptvis.training.tiny.validate import accuracy, prior_validation_batch, validation_batch

__all__ = ["run_recipe"]


def _shipped(recipe: str, seed: int) -> Path:
    return Path(str(files("adaptvis"))) / "assets" / "models" / f"{recipe}-seed{seed}"


def run_recipe(
    name: str,
    output: str | Path,
    seed: int = 0,
    *,
    base: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Trains a recipe and writes the model as a Hugging Face directory.

    Single-threaded: a run's result then depends on the recipe and the seed only, and several runs
    share a machine well. The torch thread count is restored afterwards.

    Args:
        name: a name in `RECIPES`.
        output: folder of the exported model; the resumable checkpoint lies in it too while
            training runs.
        base: exported model to continue from, for recipes with a base; by default the shipped
            model of that recipe and seed.
        resume: continue from the checkpoint in `output`, if there is one.
        progress: receives one line of text per report.

    Raises:
        ConfigError: unknown or invalid recipe.
        CheckpointError: the base is missing, or the checkpoint belongs to another run.
    """
    recipe = load_recipe(name)
    say = progress or (lambda line: None)
    if recipe.base and base is None:
        base = _shipped(recipe.base, seed)
        if not base.is_dir():
            raise CheckpointError(
                f"The recipe {name!r} continues {recipe.base!r}, which is not shipped for seed "
                f"{seed}: train it and give its folder as base."
            )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_float32(base) if recipe.base and base else build_model(seed)
        folder = Path(output)
        trainer = Trainer(model, recipe, seed, folder)
        if resume and trainer.resume():
            say(f"resumed at stage {trainer.stage}, step {trainer.step}")
        held_out = {"": validation_batch()}
        if recipe.base:
            held_out |= {f"{s}: ": prior_validation_batch(s) for s in ("balanced", "conflicting")}

        def validate() -> str:
            return " | ".join(
                label + " ".join(f"{k} {v:.1f}" for k, v in accuracy(model, batch).items())
                for label, batch in held_out.items()
            )

        trainer.run(say, validate)
        export(model, folder)
        os.unlink(folder / "checkpoint.safetensors")
        return folder
    finally:
        torch.set_num_threads(threads)
