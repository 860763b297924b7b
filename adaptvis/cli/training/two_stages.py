"""Training a LLaVA in stages: options become a recipe, reports become a bar."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from adaptvis.cli.console import progress_console
from adaptvis.errors import AdaptVisError, ConfigError

__all__ = ["Given", "StageBars", "recipe_of", "train_two_stages"]


class Given(NamedTuple):
    """What the options say about the recipe."""

    recipe: str
    settings: tuple[str, ...] = ()
    language_model: str | None = None
    vision_tower: str | None = None
    data: tuple[Path | None, ...] = (None, None)
    images: tuple[Path | None, ...] = (None, None)
    lora: bool = False


def recipe_of(given: Given) -> Any:
    """The recipe with the options applied.

    Raises:
        ConfigError: an option that this recipe does not have.
    """
    from adaptvis.training.llava import load_recipe, override
    from adaptvis.training.llava.recipe import recipe_from

    recipe = override(load_recipe(given.recipe), given.settings)
    values = recipe.model_dump(mode="json")
    for part, name in (
        ("language_model", given.language_model),
        ("vision_tower", given.vision_tower),
    ):
        if name is not None:
            values["base"][part] = name
    for place, (data, images) in enumerate(zip(given.data, given.images, strict=True)):
        if data is None and images is None:
            continue
        if place >= len(values["stages"]):
            raise ConfigError(f"Recipe {recipe.name!r} has no stage {place + 1} to give data for")
        stage = values["stages"][place]["data"]
        if stage["kind"] != "given":
            stage = {"kind": "given"}
        stage |= {k: str(v) for k, v in (("path", data), ("images", images)) if v is not None}
        if "images" not in stage or stage["images"] is None:
            stage["images"] = str(Path(stage["path"]).parent)
        values["stages"][place]["data"] = stage
    if given.lora and values["lora"] is None:
        values["lora"] = {}
    return recipe_from(values, "The recipe with the given options")


def train_two_stages(
    recipe: Any,
    output: Path,
    *,
    seed: int,
    resume: bool,
    max_steps: int | None,
    report_to: Iterable[str],
) -> Path | None:
    """Run a recipe of `adaptvis.training.llava` with a bar per stage; only one process speaks.

    Returns:
        The model's folder, or None in the processes that have nothing to say.

    Raises:
        AdaptVisError: as :func:`adaptvis.training.llava.run_recipe` does; it names the process
            where another than the first failed.
    """
    from adaptvis.training.llava import Settings, run_recipe
    from adaptvis.training.llava.callbacks import TrainingStopped
    from adaptvis.training.llava.processes import FirstProcessFailed, is_first, processes, rank

    if not is_first():
        try:
            run_recipe(recipe, output, Settings(seed, max_steps), resume=resume)
        except (FirstProcessFailed, TrainingStopped):
            raise SystemExit(2) from None  # the first process says why
        except AdaptVisError as error:
            raise AdaptVisError(f"In process {rank()} of {processes()}: {error}") from None
        return None
    with StageBars() as bars:
        settings = Settings(seed, max_steps, tuple(report_to), bars.show)
        return run_recipe(recipe, output, settings, resume=resume)


class StageBars:
    """A bar per stage with loss, learning rate and speed; lines where there is no terminal."""

    def __init__(self) -> None:
        self._console = progress_console()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, report: dict[str, Any]) -> None:
        """One optimiser step."""
        said = (
            f"loss {report['loss']:.4f}  lr {report['learning_rate']:.2e}  "
            f"{report['samples_per_second']:.1f} samples/s"
        )
        stage, step, steps = str(report["stage"]), int(report["step"]), int(report["steps"])
        if not self._console.is_terminal:
            if step % max(1, steps // 20) == 0 or step == steps:
                self._console.print(f"{stage} {step}/{steps}  {said}", markup=False, soft_wrap=True)
            return
        self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=steps, said=said)
        self._bars.update(self._tasks[stage], completed=step, said=said)

    def __enter__(self) -> "StageBars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._bars.stop()
