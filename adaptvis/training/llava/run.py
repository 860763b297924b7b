"""A run: its stages in order, then the finished model, checked."""

from __future__ import annotations

import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from adaptvis.evaluation.environment import versions
from adaptvis.model_inputs import load_whole
from adaptvis.training.llava.base import begin
from adaptvis.training.llava.disk import full_disk_is_told
from adaptvis.training.llava.finish import logits_of, move_up, verify, write_model
from adaptvis.training.llava.processes import (
    by_the_first,
    first_before_others,
    is_first,
    processes,
    require_launchable,
    wait,
)
from adaptvis.training.llava.recipe import Recipe
from adaptvis.training.llava.record import (
    LOG,
    begin_record,
    read_record,
    untouched_if_refused,
    update_record,
)
from adaptvis.training.llava.reporters import require_reporters
from adaptvis.training.llava.sharing import require_shareable
from adaptvis.training.llava.stage import Settings, Trained, train_stage
from adaptvis.training.llava.stage_data import (
    Source,
    collator_of,
    dataset_of,
    locate,
    require_given,
    require_usable,
)

__all__ = ["run_recipe"]


def run_recipe(
    recipe: Recipe, output: Path, settings: Settings | None = None, *, resume: bool = False
) -> Path:
    """Train a recipe and write the model into `output`, where `training.json` describes it.

    Call it in every process of an `accelerate launch`; only the first writes.

    Args:
        resume: continue the run in `output` from its last whole checkpoint. Learning rate,
            warm-up and gradient clipping of the stages that are not done may differ.

    A run that is refused before its first step leaves `output` as it was.

    Raises:
        ConfigError: the recipe does not fit its parts, or data was not given.
        DataError: conversations are malformed or images are missing, before the first step.
        CheckpointError: a part of the base is missing or of another architecture.
        OutputError: the folder is not writable, full, or holds another run.
        TrainingStopped: the loss is not finite any more.
    """
    settings = settings or Settings()
    require_launchable(lora=any(recipe.uses_lora(stage) for stage in recipe.stages))
    by_the_first(lambda: require_reporters(settings.report_to))
    by_the_first(lambda: require_given(recipe))
    by_the_first(lambda: require_shareable(recipe, processes()))
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "seed": settings.seed,
        "max_steps": settings.max_steps,
    }
    with untouched_if_refused(output):
        by_the_first(lambda: begin_record(output, identity, resume=resume))
        if (read_record(output) or {}).get("status") != "finished":
            _run(recipe, output, settings)
    return output


def _run(recipe: Recipe, output: Path, settings: Settings) -> None:
    sources = first_before_others(lambda: locate(recipe, output, settings.seed))
    by_the_first(lambda: _describe(output, sources))
    model, processor = first_before_others(lambda: begin(recipe, settings.seed))
    datasets = first_before_others(
        lambda: {s.name: dataset_of(s, sources[s.name], processor) for s in recipe.stages}
    )
    by_the_first(lambda: require_usable(datasets))
    trained: Trained | None = None
    for place, stage in enumerate(recipe.stages):
        folder = output / stage.name
        if (folder / "model").is_dir():
            model = None
            _remove_checkpoints(folder)
            continue
        if place and (model is None or trained is not None):
            trained = None  # free one before the next is loaded
            model = _load(output / recipe.stages[place - 1].name / "model")
        trained = train_stage(
            model, processor, datasets[stage.name], recipe, stage, folder, output / LOG, settings
        )
        if stage is not recipe.stages[-1]:
            by_the_first(partial(_write, trained.model, processor, folder / "model"))
            _remove_checkpoints(folder)
    if trained is not None:
        last = recipe.stages[-1]
        probe = collator_of(datasets[last.name])([datasets[last.name][0]])
        by_the_first(partial(_finish, trained, processor, recipe, output, probe))
        _remove_checkpoints(output / last.name)
    wait()


def _describe(output: Path, sources: dict[str, Source]) -> None:
    hashes = {name: source.sha256 for name, source in sources.items()}
    update_record(output, {"data": hashes}, fixed=True)
    found = versions({}) | {"accelerate": version("accelerate")}
    update_record(output, {"versions": found, "processes": processes(), "loss_curve": LOG})


def _load(folder: Path) -> Any:
    return load_whole(AutoModelForImageTextToText, folder, dtype=torch.float32)


def _write(model: Any, processor: Any, folder: Path) -> None:
    with full_disk_is_told(folder.parent):
        write_model(model, processor, folder)


def _finish(
    trained: Trained, processor: Any, recipe: Recipe, output: Path, probe: dict[str, Any]
) -> None:
    dtype = getattr(torch, recipe.save_dtype)
    model = trained.model
    # Not the buffers: a loaded model keeps the rotary frequencies in float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    folder = output / ".finished"
    _write(model, processor, folder)
    verify(folder, probe, logits_of(model, probe), next(model.parameters()).device)
    move_up(folder, output)
    checked = {"verified": "logits equal bit for bit"}
    update_record(output, {"status": "finished", "steps": trained.steps, **checked})


def _remove_checkpoints(folder: Path) -> None:
    wait()
    if is_first():
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    wait()
