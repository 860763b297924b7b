"""`adaptvis train`: the embedded models from scratch."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from adaptvis.cli.console import note, out
from adaptvis.errors import ConfigError

__all__ = ["train"]


def train(
    recipe: Annotated[str | None, typer.Option(help="Which model to train.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the trained model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the data.")] = 0,
    base: Annotated[
        str | None,
        typer.Option(help="Model to continue from: a folder or an embedded model's name."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the output folder.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
) -> None:
    """Train one of the embedded models again, on one CPU thread.

    A recipe and a seed decide the result. Recipes that continue another model take it from --base.

    Example: `adaptvis train --recipe tiny-2ds --seed 1 --output my-model`
    """
    from adaptvis.evaluation.output import check_output
    from adaptvis.training.tiny import load_recipe, run_recipe

    if listed:
        out().print(_recipes())
        return
    if recipe is None or output is None:
        raise ConfigError("adaptvis train needs --recipe and --output; --list shows the recipes")
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")
    continued = load_recipe(recipe).base
    if continued and base is None:
        raise ConfigError(
            f"Recipe {recipe!r} continues a model of recipe {continued!r}; give it with --base"
        )
    base_folder = _base_folder(base)
    # With --resume too: a checkpoint there is what is wanted, so only the writing is checked.
    check_output(output, resume=resume)
    console = out()
    try:
        folder = run_recipe(
            recipe,
            output,
            seed,
            base=base_folder,
            resume=resume,
            progress=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    except KeyboardInterrupt:
        note("interrupted; continue with the same options and --resume")
        raise typer.Exit(130) from None
    console.print(f"Wrote {folder}", markup=False, soft_wrap=True)


def _base_folder(base: str | None) -> Path | None:
    from adaptvis.cli.models import resolve_model

    if base is None:
        return None
    model = resolve_model(base)
    if model.folder is None:
        raise ConfigError(f"--base must be a local model folder, got the hub id {base!r}")
    return model.folder


def _recipes() -> Table:
    from adaptvis.training.tiny import RECIPES, load_recipe

    table = Table(box=box.SIMPLE_HEAD)
    for header in ("recipe", "continues", "stages"):
        table.add_column(header)
    table.add_column("steps", justify="right")
    for name in RECIPES:
        recipe = load_recipe(name)
        table.add_row(
            name,
            recipe.base or "-",
            ", ".join(stage.name for stage in recipe.stages),
            str(sum(stage.steps for stage in recipe.stages)),
        )
    return table
