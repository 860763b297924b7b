"""Step time and memory of the three variants, the normalised tail against the library's, loading.

    python benchmarks/train_step.py --rounds 5 --output benchmarks/results/train_step.md

Variants run side by side, one step of each per round; figures are medians over rounds, of the wall
clock on a GPU, of processor time on a CPU, which other work on the machine disturbs less. Each
variant's memory is what its tensors take, counted: weights, gradients, moments and what autograd
keeps for the backward pass.

The mid-size model is random: 4 layers of width 512 behind a CLIP of 6 layers of width 256 and 576
patches. The tail is `normalize_projection` (Triton on a GPU, torch elsewhere) against a
`nn.RMSNorm`, a clip of the norms and a product, forward and backward.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig

from adaptvis.models import AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration
from adaptvis.steering.backend import normalize_projection
from adaptvis.training.llava import load_recipe
from adaptvis.training.llava.base import begin
from adaptvis.training.llava.data import write_two_ds
from adaptvis.training.llava.freezing import prepare
from adaptvis.training.llava.stage_data import Source, collator_of, dataset_of

VARIANTS = ("baseline", "normalize", "normalize-multilayer")


def main() -> None:
    """Measure everything and print, or write, the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="of the tiny models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--note", default="", help="about the machine, for the file")
    given = parser.parse_args()
    mid = "mid-size, 576 image tokens, batch 1"
    with tempfile.TemporaryDirectory() as folder:
        tiny, loading = tiny_models(Path(folder), given.batch, given.device)
        parts = [
            *step_table(f"tiny-2ds, batch {given.batch}", tiny, given.rounds),
            *loading_table(loading, tiny, given.rounds),
            *step_table(mid, mid_size(given.device), given.rounds),
            *tail_table(given.rounds * 2, given.device),
        ]
    machine = f"{platform.machine()}, torch {torch.__version__}, {given.device}, "
    machine += f"{torch.get_num_threads()} thread(s), {given.rounds} rounds, medians"
    if given.note:
        machine += f"; {given.note}"
    text = "\n".join(["# One training step", "", machine, "", *parts])
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


class Steps:
    """Optimiser steps of one model on one batch."""

    def __init__(self, model: Any, batch: dict[str, torch.Tensor]) -> None:
        self.model, self.batch = model.train(), batch
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-5)
        self.kept = 0

    def __call__(self) -> None:
        self.model(**self.batch).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def memory(self) -> dict[str, float]:
        """Bytes of weights, gradients with moments, and of what a forward pass keeps."""
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.model(**self.batch).loss
        weights = {p.untyped_storage().data_ptr(): p.nbytes for p in self.model.parameters()}
        trained = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        del loss
        return {
            "weights": sum(weights.values()),
            "gradients and moments": 3 * trained,
            "activations": sum(size for pointer, size in held.items() if pointer not in weights),
        }


def tiny_models(
    folder: Path, batch: int, device: str
) -> tuple[dict[str, Steps], Callable[[], object]]:
    """Stage 2 of the tiny variants, and one batch read from the disk."""
    write_two_ds(folder, images=60, questions_per_image=6, seed=0)
    source = Source(folder / "data.json", folder / "images", "")
    steps: dict[str, Steps] = {}
    for variant in VARIANTS:
        recipe = load_recipe(f"tiny-2ds-{variant}")
        model, processor = begin(recipe, 1)
        dataset = dataset_of(recipe.stages[1], source, processor)
        collate = collator_of(dataset)
        inputs = {k: v.to(device) for k, v in collate([dataset[i] for i in range(batch)]).items()}
        steps[variant] = Steps(prepare(model.to(device), recipe, recipe.stages[1]), inputs)
    return steps, lambda: collate([dataset[i] for i in range(batch)])


def mid_size(device: str) -> dict[str, Steps]:
    """Random models that fit a CPU, everything but the tower trained."""
    layers = {"normalize-multilayer": [3, 4, 5, 6]}
    steps: dict[str, Steps] = {}
    for variant in VARIANTS:
        torch.manual_seed(0)
        norms = {"normalize": True, "target_mean": 0.8, "max_norm": 1.2}
        config = AdaptVisLlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=256,
                intermediate_size=1024,
                num_hidden_layers=6,
                num_attention_heads=4,
                image_size=336,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                hidden_size=512,
                intermediate_size=1376,
                num_hidden_layers=4,
                num_attention_heads=8,
                vocab_size=4096,
            ),
            image_token_id=4095,
            vision_feature_layer=layers.get(variant, -2),
            **(norms if variant != "baseline" else {}),
        )
        model = AdaptVisLlavaForConditionalGeneration(config).to(device)
        model.model.vision_tower.requires_grad_(False)
        ids = torch.cat([torch.full((576,), 4095), torch.randint(0, 4000, (64,))])[None].to(device)
        labels = torch.where(ids == 4095, -100, ids)
        pixels = torch.randn(1, 3, 336, 336, device=device)
        inputs = {"input_ids": ids, "labels": labels, "pixel_values": pixels}
        steps[variant] = Steps(model, inputs)
    return steps


def measured(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one call of each per round after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    for number in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            if number:
                times[name].append(clock() - start)
    return {name: median(values) for name, values in times.items()}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    made = [f"| {' | '.join(line)} |" for line in lines]
    print("\n".join(made), flush=True)
    return made


def step_table(title: str, steps: dict[str, Steps], rounds: int) -> list[str]:
    """Time and memory of a step of each variant."""
    seconds = measured(dict(steps), rounds)
    rows = []
    for name, step in steps.items():
        memory = step.memory()
        sizes = [f"{memory[k] / 1e6:.1f}" for k in memory]
        ratio = f"{seconds[name] / seconds['baseline']:.3f}"
        rows.append([name, f"{1e3 * seconds[name]:.1f}", ratio, *sizes])
    header = ["variant", "ms", "over baseline", "weights MB", "gradients, moments MB", "kept MB"]
    return [f"## {title}", "", *table(header, rows), ""]


def loading_table(loading: Callable[[], object], steps: dict[str, Steps], rounds: int) -> list[str]:
    """What reading one batch takes beside one step on it."""
    works: dict[str, Callable[[], object]] = {"load": loading, "step": steps["baseline"]}
    seconds = measured(works, rounds)
    share = seconds["load"] / (seconds["load"] + seconds["step"])
    row = [f"{1e3 * seconds['load']:.1f}", f"{1e3 * seconds['step']:.1f}", f"{100 * share:.1f} %"]
    header = ["load ms", "step ms", "share without workers"]
    return ["## Loading, tiny-2ds", "", *table(header, [row]), ""]


class LibraryTail(nn.Module):
    """The same tail of library parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        nn.init.constant_(self.norm.weight, width**-0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised features [T, D]."""
        normed = self.norm(features)
        norms = normed.norm(dim=-1, keepdim=True)
        return normed * (1.22 / norms).clamp(max=1.0) * 0.83


def tail_table(rounds: int, device: str) -> list[str]:
    """Forward and backward of 2 x 576 tokens of width 4096, at Vicuna-7B's norms."""
    features = torch.randn(2 * 576, 4096, device=device, requires_grad=True)
    weight = torch.full((4096,), 4096**-0.5, device=device, requires_grad=True)
    library = LibraryTail(4096).to(device)

    def ours() -> torch.Tensor:
        return normalize_projection(features, weight, max_norm=1.22, target_mean=0.83, eps=1e-6)

    torch.testing.assert_close(ours(), library(features), rtol=1e-4, atol=1e-5)
    gradient = torch.randn(2 * 576, 4096, device=device)
    seconds = measured(
        {
            "normalize_projection": lambda: ours().backward(gradient),
            "RMSNorm, clip, product": lambda: library(features).backward(gradient),
        },
        rounds,
    )
    rows = [[name, f"{1e3 * value:.1f}"] for name, value in seconds.items()]
    header = ["tail, 1152 x 4096, forward and backward", "ms"]
    return ["## The normalised tail", "", *table(header, rows)]


if __name__ == "__main__":
    main()
