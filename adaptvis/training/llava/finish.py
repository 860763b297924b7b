"""Writing a trained model whole, and checking that what was written is what was trained."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from adaptvis.errors import OutputError

__all__ = ["logits_of", "move_up", "verify", "whole_model", "write_model"]


def write_model(model: Any, processor: Any, folder: Path) -> None:
    """Write model and processor into a folder that is there when it is whole."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    vars(model.config).pop("use_cache", None)  # false: the Trainer's choice, for training alone
    model.save_pretrained(part)
    processor.save_pretrained(part)
    for path in part.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner only
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def whole_model(config: Any, state: dict[str, Tensor]) -> Any:
    """A model on the CPU with gathered weights, for processes that hold shards."""
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.load_state_dict(state)
    return model


def move_up(folder: Path, target: Path) -> None:
    """Move a model's files up; config.json last, without which a folder is no model."""
    names = sorted(os.listdir(folder), key=lambda name: (name == "config.json", name))
    for name in names:
        os.replace(folder / name, target / name)
    folder.rmdir()


@torch.no_grad()
def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Logits [B, L, V] on the CPU, without dropout."""
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    inputs = {
        key: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
        for key, value in batch.items()
        if key != "labels"
    }
    logits: Tensor = model(**inputs).logits.cpu()
    model.train(was_training)
    return logits


def verify(folder: Path, batch: dict[str, Tensor], expected: Tensor, device: Any) -> None:
    """Load a written model and compare its logits with the trained model's, bit for bit.

    Raises:
        OutputError: they differ, or the model does not load.
    """
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").to(device)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OutputError(f"The model written to {folder} does not load: {reason}") from None
    found = logits_of(loaded, batch)
    if not torch.equal(found, expected):
        difference = (found.float() - expected.float()).abs().max().item()
        raise OutputError(
            f"The model read back from {folder} differs from the trained one (logits by up to "
            f"{difference:.3g}), so it was not put in place; the stage's last whole checkpoint is "
            "kept, so try again with --resume, and if it differs again report it as a fault of "
            "adaptvis or of this machine"
        )
