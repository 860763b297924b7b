"""`adaptvis train`: the embedded models from scratch, and LLaVAs in two stages."""

from pathlib import Path
from typing import Annotated

import typer

from adaptvis.cli.console import note, out
from adaptvis.cli.training.two_stages import Given, recipe_of, train_two_stages
from adaptvis.errors import ConfigError, unknown_name

__all__ = ["train"]


def train(
    recipe: Annotated[
        str | None, typer.Option(help="Name of a recipe, or a YAML file of one.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the trained model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the data.")] = 0,
    base: Annotated[
        str | None,
        typer.Option(help="Model to continue from: a folder or an embedded model's name."),
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Instead of the recipe's: embedded name, folder or hub id.")
    ] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="Instead of the recipe's: embedded name, folder or hub id.")
    ] = None,
    stage1_data: Annotated[
        Path | None, typer.Option(help="LLaVA-format JSON file of the first stage.")
    ] = None,
    stage1_images: Annotated[
        Path | None, typer.Option(help="Folder of its images; default: where the file is.")
    ] = None,
    stage2_data: Annotated[
        Path | None, typer.Option(help="LLaVA-format JSON file of the second stage.")
    ] = None,
    stage2_images: Annotated[
        Path | None, typer.Option(help="Folder of its images; default: where the file is.")
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train the language model through LoRA, merged after.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any field of the recipe: stages.stage-1.steps=100; repeatable."
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="At most so many steps in each stage.")
    ] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard or wandb; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the output folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan the memory of each GPU and stop.")
    ] = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: number of GPUs; 8 if not given.")
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="With --dry-run: memory of each, in GB; 80 if not given."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
) -> None:
    """Train a model by a recipe; `--list` shows what there is.

    A recipe and a seed decide the result. On several GPUs, or CPU processes, start it with
    `accelerate launch -m adaptvis train ...`; the recipe's global batch stays what it is.

    Example: `adaptvis train --recipe tiny-2ds-normalize --seed 1 --output my-model`
    """
    from adaptvis.training import llava, tiny

    if listed:
        from adaptvis.cli.training.recipes import recipes_table

        out().print(recipes_table())
        return
    if recipe is None or (output is None and not dry_run):
        raise ConfigError("adaptvis train needs --recipe and --output; --list shows the recipes")
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")
    known = (*tiny.RECIPES, *llava.RECIPES)
    if recipe not in known and not recipe.endswith((".yaml", ".yml")):
        raise ConfigError(unknown_name("recipe", recipe, known, "(or give a YAML file)"))
    given = Given(
        recipe,
        tuple(settings or ()),
        language_model,
        vision_tower,
        (stage1_data, stage2_data),
        (stage1_images, stage2_images),
        lora,
    )
    if recipe in tiny.RECIPES and (dry_run or given != Given(recipe)):
        raise ConfigError(
            f"Recipe {recipe!r} trains an embedded model on one CPU thread and takes only --seed, "
            "--base, --resume and --output"
        )
    _refuse_idle(
        f"Recipe {recipe!r} takes",
        recipe in tiny.RECIPES,
        {"--max-steps": max_steps, "--report-to": report_to},
    )
    if base is not None and recipe not in tiny.RECIPES:
        raise ConfigError(
            f"Recipe {recipe!r} takes no --base; give the parts it begins with by "
            "--language-model and --vision-tower"
        )
    _refuse_idle(
        "A run without --dry-run takes", not dry_run, {"--gpus": gpus, "--gpu-memory": gpu_memory}
    )
    _refuse_idle(
        "A --dry-run writes nothing and takes",
        dry_run,
        {"--resume": resume, "--max-steps": max_steps, "--report-to": report_to},
    )
    if dry_run:
        from adaptvis.cli.training.dry_run import memory_table

        out().print(
            memory_table(recipe_of(given), gpus=gpus or 8, gpu_memory=gpu_memory or 80.0, seed=seed)
        )
        return
    assert output is not None
    try:
        if recipe in tiny.RECIPES:
            from adaptvis.cli.training.embedded import train_embedded

            folder = train_embedded(recipe, output, seed=seed, base=base, resume=resume)
        else:
            done = train_two_stages(
                recipe_of(given),
                output,
                seed=seed,
                resume=resume,
                max_steps=max_steps,
                report_to=report_to or (),
            )
            if done is None:
                return
            folder = done
    except KeyboardInterrupt:
        note("interrupted; continue with the same options and --resume")
        raise typer.Exit(130) from None
    out().print(f"Wrote {folder}", markup=False, soft_wrap=True)


def _refuse_idle(who: str, applies: bool, options: dict[str, object]) -> None:
    """Refuse options that would do nothing."""
    for name, value in options.items():
        if applies and value:
            raise ConfigError(f"{who} no {name}; leave it out")
