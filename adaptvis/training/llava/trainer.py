"""The library's Trainer with our order of conversations, and its arguments from a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler
from transformers import Trainer, TrainingArguments

from adaptvis.training.llava.data import ModalityLengthSampler, WholeSteps
from adaptvis.training.llava.processes import on_cpu, processes
from adaptvis.training.llava.recipe import Recipe, Stage
from adaptvis.training.llava.sharing import share_of

__all__ = ["StageArguments", "StageTrainer", "make_sampler", "training_arguments"]


@dataclass
class StageArguments(TrainingArguments):
    """The library's, and a learning rate of the projector's own."""

    projector_learning_rate: float | None = None


class StageTrainer(Trainer):
    """The library's, with our order, steps without a trained token, and a schedule of today.

    The projector may have a learning rate of its own.
    """

    def __init__(self, *, sampler: Sampler[int], **options: Any) -> None:
        super().__init__(**options)
        self._sampler = sampler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._sampler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Trained tokens of a step, at least 1: a step without any adds 0, not 0 / 0."""
        items = super()._get_num_items_in_batch(batch_samples, device)
        return items.clamp(min=1) if isinstance(items, torch.Tensor) else items

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Of a checkpoint the moments and the step; the learning rate is what is asked for now."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_deepspeed_enabled:
            return
        schedule: Any = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        schedule.base_lrs = [
            self.args.projector_learning_rate if group.get("projector") else self.args.learning_rate
            for group in self.optimizer.param_groups
        ]
        factors = [at(schedule.last_epoch) for at in schedule.lr_lambdas]
        rates = [base * by for base, by in zip(schedule.base_lrs, factors, strict=True)]
        for group, base, rate in zip(
            self.optimizer.param_groups, schedule.base_lrs, rates, strict=True
        ):
            group["initial_lr"], group["lr"] = base, rate
        schedule._last_lr = rates

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The library's, with a group of its own for a projector that has its own rate."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.projector_learning_rate
        if new and rate is not None:
            named = (self.model if model is None else model).named_parameters()
            own = {id(p) for name, p in named if "multi_modal_projector" in name}
            for group in list(optimizer.param_groups):
                parts = [p for p in group["params"] if id(p) in own]
                group["params"] = [p for p in group["params"] if id(p) not in own]
                if parts:
                    optimizer.add_param_group(
                        {**group, "params": parts, "lr": rate, "projector": True}
                    )
        return optimizer


def make_sampler(stage: Stage, lengths: list[int], seed: int) -> Sampler[int]:
    """The order of the stage's conversations, the same for any number of processes.

    Args:
        lengths: tokens of every conversation, negative where it has no image.
    """
    order: Sampler[int]
    if stage.group_by_modality_length:
        parts = stage.global_batch // stage.per_device_batch
        order = ModalityLengthSampler(lengths, stage.per_device_batch, parts, seed=seed)
    else:
        # A permutation per seed and epoch; accelerate deals its batches to the processes.
        order = DistributedSampler(range(len(lengths)), num_replicas=1, rank=0, seed=seed)  # type: ignore[arg-type]
    return WholeSteps(order, stage.global_batch)


def training_arguments(
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    *,
    seed: int,
    steps: int | None,
    total_steps: int,
    report_to: tuple[str, ...],
) -> StageArguments:
    """The Trainer's arguments of one stage.

    Args:
        steps: the stage's steps where it goes by steps, else None for its epochs.
        total_steps: either way, for the warm-up's share.
    """
    share = share_of(stage, processes())
    reach = {"max_steps": steps} if steps else {"num_train_epochs": stage.epochs}
    return StageArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        **reach,
        per_device_train_batch_size=share.at_once,
        gradient_accumulation_steps=share.times,
        learning_rate=recipe.stage_learning_rate(stage),
        projector_learning_rate=recipe.projector_learning_rate(stage),
        lr_scheduler_type=stage.schedule,
        warmup_steps=math.ceil(stage.warmup * total_steps),
        weight_decay=stage.weight_decay,
        adam_beta1=stage.adam_betas[0],
        adam_beta2=stage.adam_betas[1],
        max_grad_norm=stage.max_grad_norm,
        bf16=recipe.precision == "bfloat16",
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        # The collator gives a batch of text alone a black image, so that none is unused.
        ddp_find_unused_parameters=False,
        # Every step: the guard must see a loss before the weights of its step are saved.
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=stage.save_every,
        # The newer of the two may be half-written when the process dies.
        save_total_limit=2,
        dataloader_num_workers=stage.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_persistent_workers=stage.workers > 0,
        remove_unused_columns=False,
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        use_cpu=on_cpu(),
        include_num_input_tokens_seen="no",
    )
