"""Training an embedded model again, on one CPU thread."""

from pathlib import Path

from adaptvis.cli.console import out
from adaptvis.errors import ConfigError

__all__ = ["train_embedded"]


def train_embedded(recipe: str, output: Path, *, seed: int, base: str | None, resume: bool) -> Path:
    """Run a recipe of `adaptvis.training.tiny`.

    Raises:
        ConfigError: the recipe continues another and no base was given.
        OutputError: the folder cannot be written or holds something.
    """
    from adaptvis.evaluation.output import check_output
    from adaptvis.training.tiny import load_recipe, run_recipe

    continued = load_recipe(recipe).base
    if continued and base is None:
        raise ConfigError(
            f"Recipe {recipe!r} continues a model of recipe {continued!r}; give it with --base"
        )
    folder = _base_folder(base)
    # With --resume too: a checkpoint there is what is wanted, so only the writing is checked.
    check_output(output, resume=resume)
    console = out()
    return run_recipe(
        recipe,
        output,
        seed,
        base=folder,
        resume=resume,
        progress=lambda line: console.print(line, markup=False, soft_wrap=True),
    )


def _base_folder(base: str | None) -> Path | None:
    from adaptvis.cli.models import resolve_model

    if base is None:
        return None
    model = resolve_model(base)
    if model.folder is None:
        raise ConfigError(f"--base must be a local model folder, got the hub id {base!r}")
    return model.folder
