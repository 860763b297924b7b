"""`adaptvis train --list`: every recipe, what it produces and what it needs."""

from rich import box
from rich.table import Table

__all__ = ["recipes_table"]


def recipes_table() -> Table:
    """The embedded models' recipes and the two-stage ones."""
    from adaptvis.training import llava, tiny
    from adaptvis.training.llava.recipe import GeneratedData

    table = Table(box=box.SIMPLE_HEAD)
    for header in ("recipe", "produces", "stages", "needs"):
        # Names of files must be there whole, however narrow the terminal is.
        table.add_column(header, no_wrap=header == "recipe", overflow="fold")
    for name in tiny.RECIPES:
        embedded = tiny.load_recipe(name)
        table.add_row(
            name,
            "an embedded model, from scratch"
            if embedded.base is None
            else f"{embedded.base} with a text shortcut",
            ", ".join(f"{stage.name} {stage.steps}" for stage in embedded.stages),
            "one CPU thread" if embedded.base is None else f"--base, a model of {embedded.base}",
        )
    for name in llava.RECIPES:
        recipe = llava.load_recipe(name)
        needs = [s.data.needs for s in recipe.stages if not isinstance(s.data, GeneratedData)]
        table.add_row(
            name,
            recipe.produces,
            ", ".join(
                f"{s.name} {s.steps} steps" if s.steps else f"{s.name} {s.epochs:g} epoch"
                for s in recipe.stages
            ),
            "; ".join([*needs, "GPUs (see --dry-run)"]) if needs else "a CPU",
        )
    return table
