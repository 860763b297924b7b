"""What steering costs in transformers: ratios of medians, measured side by side in one run.

    python benchmarks/hf_overhead.py

A LLaVA of about 300 M random parameters with 576 image tokens. Every comparison alternates its
contestants within each round, so that a slow moment of the machine hits all of them. The published
recipe is what the AdaptVis authors' code does: two whole generations, eager attention, one prompt
at a time.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from hf_bench.measure import compare, generate
from published_recipe import published_adaptvis
from rich.console import Console
from rich.table import Table
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from adaptvis import AdaptVis, steer

IMAGE_TOKENS = 576
TEXT_TOKENS = 48
# The recipe rounds to two decimals: halfway between two of them nothing is on the edge.
CONFIG = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.405)
# Spreads the random model's confidences over (0, 1), so that both branches run.
HEAD_SCALE = 12.0


def build_model(layers: int) -> LlavaForConditionalGeneration:
    """A random LLaVA-1.5 in miniature: 24 x 24 image tokens, Llama of width 1024."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=16,
        ),
        image_token_index=32000,
        image_seq_length=IMAGE_TOKENS,
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(HEAD_SCALE)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompts(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """``batch`` prompts: some text, 576 image tokens, a question of 48 tokens in all."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, 31000, (batch, TEXT_TOKENS), generator=generator)
    image = torch.full((batch, IMAGE_TOKENS), 32000)
    ids = torch.cat([text[:, :16], image, text[:, 16:]], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn((batch, 3, 336, 336), generator=generator),
    }


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds per comparison.")] = 7,
    recipe_rounds: Annotated[int, typer.Option(help="The same against the recipe.")] = 3,
    large_rounds: Annotated[int, typer.Option(help="The same at batch 16.")] = 3,
    layers: Annotated[int, typer.Option(help="Decoder layers; 18 make about 300 M.")] = 18,
    output: Annotated[Path, typer.Option(help="Result table, Markdown.")] = Path(
        "benchmarks/results/hf_overhead.md"
    ),
) -> None:
    """Measure and write the table."""
    model = build_model(layers)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    rows: list[tuple[str, str, str, float, float, float, str]] = []

    def row(what: str, base: str, ours: str, times: dict[str, float], target: str) -> None:
        ratio = times[ours] / times[base]
        rows.append((what, base, ours, times[base], times[ours], ratio, target))

    one = prompts(1)
    for new_tokens, target in ((1, "<= 1.15"), (32, "<= 1.05")):

        def plain(n: int = new_tokens) -> torch.Tensor:
            return generate(model, one, n)

        def off(n: int = new_tokens) -> torch.Tensor:
            with steer(model, None):
                return generate(model, one, n)

        def adaptvis(n: int = new_tokens) -> torch.Tensor:
            with steer(model, CONFIG):
                return generate(model, one, n)

        times = compare(rounds, f"{new_tokens} tokens", unsteered=plain, off=off, adaptvis=adaptvis)
        row(f"AdaptVis, {new_tokens} new tokens", "unsteered", "adaptvis", times, target)
        row(f"patched but off, {new_tokens} new tokens", "unsteered", "off", times, "<= 1.01")
        if not torch.equal(plain(), off()):
            raise SystemExit("patched but off is not identical to the untouched model")

    answers: dict[str, torch.Tensor] = {}
    alphas: list[float] = []
    for batch, target in ((1, ">= 2x faster"), (16, ">= 5x faster")):
        inputs = prompts(batch, seed=batch)

        def recipe(inputs: dict[str, torch.Tensor] = inputs) -> None:
            answers["recipe"] = published_adaptvis(model, inputs, CONFIG, new_tokens=8)

        def ours(inputs: dict[str, torch.Tensor] = inputs) -> None:
            with steer(model, CONFIG) as handle:
                answers["ours"] = generate(model, inputs, 8)
            alphas[:] = [decision.alpha for decision in handle.last]

        repeats = recipe_rounds if batch == 1 else large_rounds
        times = compare(repeats, f"recipe, batch {batch}", recipe=recipe, adaptvis=ours)
        row(f"published recipe, batch {batch}, 8 new tokens", "recipe", "adaptvis", times, target)
        print(f"batch {batch}: coefficients {sorted(set(alphas))}")
        if not torch.equal(answers["recipe"], answers["ours"]):
            raise SystemExit(f"batch {batch}: the published recipe gives other answers")

    report(rows, size, output, (rounds, recipe_rounds, large_rounds))


def report(
    rows: list[tuple[str, str, str, float, float, float, str]],
    size: float,
    output: Path,
    rounds: tuple[int, int, int],
) -> None:
    """Print the table and write it as Markdown, with JSON beside it."""
    table = Table(title="What steering costs in transformers")
    header = ("comparison", "base (s)", "ours (s)", "ours / base", "base / ours", "target")
    for name in header:
        table.add_column(name)
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for what, _, _, base_seconds, our_seconds, ratio, target in rows:
        cells = (
            what,
            f"{base_seconds:.3f}",
            f"{our_seconds:.3f}",
            f"{ratio:.3f}",
            f"{1 / ratio:.2f}",
            target,
        )
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    Console().print(table)
    setting = (
        f"`python benchmarks/hf_overhead.py --rounds {rounds[0]} --recipe-rounds {rounds[1]} "
        f"--large-rounds {rounds[2]}`: medians of so many interleaved rounds; "
        f"LLaVA of {size:.0f} M random parameters, float32, "
        f"{IMAGE_TOKENS} image tokens, {TEXT_TOKENS} text tokens; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}. Answers were compared and are equal."
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("# Overhead in transformers\n\n" + setting + "\n\n" + "\n".join(lines) + "\n")
    keys = ("comparison", "base", "ours", "base_seconds", "our_seconds", "ratio", "target")
    output.with_suffix(".json").write_text(
        json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1) + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
