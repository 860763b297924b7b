"""One stage: a model in, a trained model out, from its last whole checkpoint if there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from adaptvis.errors import AdaptVisError
from adaptvis.training.llava.callbacks import (
    Epochs,
    Guard,
    LogFile,
    NoCheckpointAtTheEnd,
    Progress,
    WholeCheckpoints,
)
from adaptvis.training.llava.checkpoints import last_complete, remove_incomplete
from adaptvis.training.llava.disk import full_disk_is_told, require_room
from adaptvis.training.llava.finish import whole_model
from adaptvis.training.llava.freezing import prepare, trainable_parameters
from adaptvis.training.llava.processes import by_the_first, is_first, wait
from adaptvis.training.llava.recipe import Recipe, Stage
from adaptvis.training.llava.stage_data import collator_of
from adaptvis.training.llava.trainer import (
    StageTrainer,
    make_sampler,
    training_arguments,
)

__all__ = ["Settings", "Trained", "train_stage"]


class Settings(NamedTuple):
    """What a run was asked for beside its recipe."""

    seed: int = 0
    max_steps: int | None = None
    report_to: tuple[str, ...] = ()
    progress: Progress | None = None


class Trained(NamedTuple):
    """The model without adapters, whole in the first process, and the steps it was trained for."""

    model: Any
    steps: int


def train_stage(
    model: Any,
    processor: Any,
    dataset: Any,
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    log: Path,
    settings: Settings,
) -> Trained:
    """Train one stage in place.

    Raises:
        TrainingStopped: loss or gradient is not finite any more.
        DataError: an image cannot be decoded, in this process or in one that reads data for it.
        OutputError: there is not, or no longer, room for checkpoints.
    """
    by_the_first(lambda: remove_incomplete(folder))
    checkpoint = last_complete(folder)
    set_seed(settings.seed)
    model = prepare(model, recipe, stage)
    total = total_steps(stage, len(dataset), settings.max_steps)
    by_the_first(lambda: _room(folder, model))
    sampler = make_sampler(stage, dataset.lengths, settings.seed)
    arguments = training_arguments(
        recipe,
        stage,
        folder,
        seed=settings.seed,
        steps=total if stage.steps or settings.max_steps else None,
        total_steps=total,
        report_to=settings.report_to,
    )
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator_of(dataset),
        processing_class=processor,
        sampler=sampler,
        callbacks=[
            Guard(stage.name, folder, _rate_setting(recipe, stage)),
            LogFile(log, stage.name, stage.global_batch, settings.progress),
            Epochs(sampler),
            NoCheckpointAtTheEnd(),
            WholeCheckpoints(),
        ],
    )
    _silence(trainer)
    with full_disk_is_told(folder), _one_sentence():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _collected(trainer, recipe.uses_lora(stage), total)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What a data worker raised, without the traceback that torch makes its message."""
    try:
        yield
    except AdaptVisError as error:
        message = str(error)
        if not message.startswith("Caught "):
            raise
        last = message.strip().splitlines()[-1]
        raise type(error)(last.partition(f"{type(error).__name__}: ")[2] or last) from None


def _rate_setting(recipe: Recipe, stage: Stage) -> str:
    lora = recipe.uses_lora(stage) and recipe.lora is not None and recipe.lora.learning_rate
    return "lora.learning_rate" if lora else f"stages.{stage.name}.learning_rate"


def total_steps(stage: Stage, conversations: int, max_steps: int | None) -> int:
    """Optimiser steps of a stage, as the Trainer counts them."""
    steps = stage.steps
    if steps is None:
        an_epoch = math.ceil(conversations / stage.global_batch)
        steps = math.ceil((stage.epochs or 1) * an_epoch)
    return steps if max_steps is None else min(steps, max_steps)


def _room(folder: Path, model: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, sum(p.numel() for p in model.parameters()), trainable_parameters(model))


def _silence(trainer: StageTrainer) -> None:
    """Progress is ours; the library would print each step's dictionary."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def _collected(trainer: StageTrainer, lora: bool, steps: int) -> Trained:
    wait()
    accelerator = trainer.accelerator
    # Without the autocast that accelerate puts around forward, and that a loaded model has not.
    model = accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        state = accelerator.get_state_dict(trainer.model_wrapped)
        return Trained(whole_model(model.config, state) if is_first() else None, steps)
    return Trained(model.merge_and_unload() if lora else model, steps)
