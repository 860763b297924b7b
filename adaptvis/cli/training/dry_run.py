"""`adaptvis train --dry-run`: would the recipe fit these GPUs?"""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["memory_table"]


def memory_table(recipe: Any, *, gpus: int, gpu_memory: float, seed: int) -> Group:
    """Planned memory of a GPU for each stage, strategy and checkpointing.

    Args:
        gpu_memory: of one GPU, in GB (1e9 bytes).

    Raises:
        ConfigError: so many GPUs cannot share a stage's global batch evenly.
    """
    from adaptvis.training.llava.memory import STRATEGIES, plan, trained_parameters
    from adaptvis.training.llava.shapes import shapes_of
    from adaptvis.training.llava.sharing import require_shareable

    require_shareable(recipe, gpus)
    shapes = shapes_of(recipe, seed)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in ("stage", "strategy", "checkpointing"):
        table.add_column(header, no_wrap=True)
    parts = ("weights", "gradients", "optimiser", "working", "activations", "total")
    for header in (*parts, f"fits {gpu_memory:g} GB"):
        table.add_column(header, justify="right", no_wrap=True)
    for stage in recipe.stages:
        for strategy in STRATEGIES:
            for checkpointing in (True, False):
                found = plan(
                    recipe,
                    stage,
                    shapes,
                    gpus=gpus,
                    strategy=strategy,
                    checkpointing=checkpointing,
                )
                fits = found.total <= gpu_memory * 1e9
                table.add_row(
                    stage.name,
                    strategy,
                    "on" if checkpointing else "off",
                    *(f"{getattr(found, part) / 1e9:.2f}" for part in parts),
                    "[green]yes[/]" if fits else "[red]no[/]",
                )
        table.add_section()
    trained = ", ".join(
        f"{stage.name} trains {trained_parameters(recipe, stage, shapes) / 1e6:,.1f} M and "
        f"{_steps_of(stage, gpus)}"
        for stage in recipe.stages
    )
    lines = (
        f"{recipe.name} on {gpus} GPU{'s' * (gpus > 1)}: {shapes.total / 1e6:,.1f} M parameters; "
        f"{trained}",
        "GB on each GPU; an upper estimate: every conversation as long as max_length",
    )
    return Group(Text(lines[0]), table, Text(lines[1]))


def _steps_of(stage: Any, gpus: int) -> str:
    from adaptvis.training.llava.sharing import share_of

    at_once = share_of(stage, gpus).at_once
    batch = f"takes {stage.global_batch} conversations per step, {at_once} at once"
    return batch if stage.steps is None else f"{batch}, {stage.steps} steps"
