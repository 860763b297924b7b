"""A random LLaVA with the embedded model's processor, loadable by transformers and vLLM alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import adaptvis

ASSETS = Path(adaptvis.__file__).parent / "assets" / "models"
HIDDEN = 128
_SENTENCE = "what where is are which there a the of in on at to and or it with left right red"
WORDS = _SENTENCE.split()


def write_random_llava(folder: Path, *, groups: int = 2, seed: int = 0) -> Path:
    """Four query heads of size 32 over ``groups`` key-value heads; no answer ends it early."""
    shutil.copytree(
        ASSETS / "tiny-2ds-seed0", folder, ignore=shutil.ignore_patterns("adaptvis.json")
    )
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_key_value_heads"] = groups
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        shape = list(weight.shape)
        if "language_model" in name and ("k_proj" in name or "v_proj" in name):
            shape[0] = groups * 32
        noise = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * noise
        elif len(shape) == 1:
            weights[name] = 0.05 * noise
        elif "q_proj" in name or "k_proj" in name:
            # Attention logits with a standard deviation of order one, so that alpha matters.
            weights[name] = 0.13 * noise
        elif "embed" in name:
            weights[name] = noise
        else:
            weights[name] = noise * (2 if "lm_head" in name else 1) * weight[0].numel() ** -0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
