"""The optimisation loop shared by all stages, and its checkpoints."""

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from adaptvis.errors import CheckpointError
from adaptvis.training.tiny.packing import (
    PATCH_WEIGHT,
    PackedBatch,
    PatchHead,
    pack,
    packed_losses,
    patch_features,
)
from adaptvis.training.tiny.recipe import Recipe, ShortcutStage, Stage, TowerStage
from adaptvis.training.tiny.stream import make_batch, prior_batch, replaced_batch

__all__ = ["Progress", "Trainer", "learning_rate", "match_norm"]

Progress = Callable[[str], None]
"""Called with one line of text per report."""


def learning_rate(stage: TowerStage | Stage | ShortcutStage, step: int) -> float:
    """Linear warm-up, constant, then cosine to 5 % over the remaining steps."""
    warm = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    start = getattr(stage, "constant", 0.5) * stage.steps
    if step < start:
        return stage.learning_rate * warm
    phase = (step - start) / max(1.0, stage.steps - start)
    return stage.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * phase)))


@torch.no_grad()
def match_norm(model: LlavaForConditionalGeneration, pixels: Tensor) -> None:
    """Scales the projector's last layer: mean image-token norm = mean word-embedding norm.

    Without it the tower's features enter some sixty times longer than words, and the decoder's
    layers can hardly change them (Beyond Semantics, section 5.2, matches the norms as well).
    """
    projector = model.model.multi_modal_projector
    image = projector(patch_features(model, pixels)).norm(dim=-1).mean()
    word = model.model.language_model.embed_tokens.weight.norm(dim=-1).mean()
    for parameter in projector.linear_2.parameters():
        parameter.mul_(word / image)


class Trainer:
    """Model, patch read-out and optimiser of one run, at a (stage, step) position.

    Args:
        model: float32 master weights; trained in place.
        seed: names the data streams.
        folder: where checkpoints go; None keeps none.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        recipe: Recipe,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        self.model, self.recipe, self.seed, self.folder = model, recipe, seed, folder
        torch.manual_seed(seed)
        self.head = PatchHead(model.config.vision_config.hidden_size)
        self.stage, self.step = 0, 0
        self._reset_optimizer()

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named trainable tensors: the model's and the read-out's."""
        yield from self.model.named_parameters()
        yield from self.head.named_parameters("patch_head")

    def run(
        self, progress: Progress, validate: Callable[[], str], checkpoint_every: int = 500
    ) -> None:
        """Trains from the current position to the end of the recipe."""
        self.model.train()
        while self.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage]
            if isinstance(stage, Stage) and stage.match_norm and self.step == 0:
                match_norm(self.model, self._batch(stage).pixels)
            clock, total = time.perf_counter(), 0.0
            while self.step < stage.end:
                total += self.train_step()
                every = self.recipe.validate_every
                if self.step % every == 0 or self.step == stage.end:
                    took = (time.perf_counter() - clock) / (self.step % every or every)
                    report = "" if stage.kind == "tower" else validate()
                    progress(
                        f"{stage.name} {self.step}/{stage.end} loss "
                        f"{total / (self.step % every or every):.4f} {took:.2f} s/step {report}"
                    )
                    clock, total = time.perf_counter(), 0.0
                if self.step % checkpoint_every == 0:
                    self.save()
            self.stage, self.step = self.stage + 1, 0
            self._reset_optimizer()
            self.save()

    def train_step(self) -> float:
        """One optimiser step at the current position; returns the loss."""
        stage = self.recipe.stages[self.stage]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, self.step)
        cast = self.recipe.compute == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16) if cast else nullcontext():
            loss = self._loss(stage, self._batch(stage))
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in self.parameters()], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _loss(self, stage: TowerStage | Stage | ShortcutStage, packed: PackedBatch) -> Tensor:
        if isinstance(stage, TowerStage):
            return self.head.loss(patch_features(self.model, packed.pixels), packed.patches)
        losses = packed_losses(self.model, self.head, packed)
        if isinstance(stage, ShortcutStage):
            return losses.answers
        loss = losses.answers + PATCH_WEIGHT * losses.patches
        # An unused term must leave no gradient at all, lest weight decay touch its read-out.
        for weight, term in (
            (stage.grounding, losses.grounding),
            (stage.cue_grounding, losses.cue_grounding),
            (stage.look_away, losses.image_attention),
        ):
            loss = loss + weight * term if weight else loss
        return loss

    def _batch(self, stage: TowerStage | Stage | ShortcutStage) -> PackedBatch:
        key = f"{self.seed}/{stage.name}/{self.step}"
        if isinstance(stage, TowerStage):
            return pack(make_batch(key, stage.batch, 0, stage.objects, {"what": 1.0}), 0)
        if isinstance(stage, ShortcutStage):
            size = (stage.images, stage.questions, stage.objects)
            if stage.replaced:
                return pack(replaced_batch(key, *size, stage.replaced), stage.questions)
            return pack(prior_batch(key, *size, stage.contrast, stage.noise), stage.questions)
        early = self.step < stage.first_steps
        objects = stage.first_objects if early and stage.first_objects else stage.objects
        groups = {str(k): v for k, v in stage.groups.items()}
        naming = {str(k): v for k, v in stage.naming.items()} if stage.naming else None
        batch = make_batch(key, stage.images, stage.questions, objects, groups, naming)
        return pack(batch, stage.questions, stage.blind, random.Random(f"{key}/blind"))

    def _reset_optimizer(self) -> None:
        decayed = [p for n, p in self.parameters() if p.ndim > 1 and "embed" not in n]
        rest = [p for n, p in self.parameters() if not (p.ndim > 1 and "embed" not in n)]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=1e-3,
            betas=(0.9, 0.98),
            fused=True,
        )

    def save(self) -> None:
        """Writes `checkpoint.safetensors` (weights, moments) and its position, atomically."""
        if self.folder is None:
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters():
            tensors[name] = parameter.data
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        position = {"recipe": self.recipe.name, "seed": self.seed}
        position |= {"stage": self.stage, "step": self.step}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "checkpoint.tmp"
        save_file(tensors, temporary, metadata={"position": json.dumps(position)})
        os.replace(temporary, self.folder / "checkpoint.safetensors")

    def resume(self) -> bool:
        """Continues from the folder's checkpoint; False where there is none.

        Raises:
            CheckpointError: the checkpoint belongs to another recipe or seed.
        """
        if self.folder is None or not (path := self.folder / "checkpoint.safetensors").is_file():
            return False
        position = read_position(path)
        if (position["recipe"], position["seed"]) != (self.recipe.name, self.seed):
            raise CheckpointError(
                f"{path} belongs to recipe {position['recipe']!r}, seed {position['seed']}, "
                f"not to {self.recipe.name!r}, seed {self.seed}."
            )
        tensors = load_file(path)
        self.stage, self.step = int(position["stage"]), int(position["step"])
        self._reset_optimizer()
        with torch.no_grad():
            for name, parameter in self.parameters():
                parameter.copy_(tensors[name])
                state = {
                    key: tensors[f"{key}/{name}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}/{name}" in tensors
                }
                if state:
                    self.optimizer.state[parameter] = state
        return True


def read_position(path: Path) -> dict[str, int | str]:
    """The position stored in a checkpoint: recipe, seed, stage, step."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "position" not in metadata:
        raise CheckpointError(f"{path} is not a checkpoint of this training loop.")
    return json.loads(metadata["position"])
