"""What a sweep costs: times one unsteered evaluation of the same questions, side by side.

    python benchmarks/sweep_cost.py

Compared are whole runs as the commands do them: an unsteered evaluation that writes its records,
and sweeps that write theirs and then search every pair of coefficients and every threshold. They
alternate within each round, so that a slow moment of the machine hits all of them. Two models: an
embedded one, whose prefill costs next to nothing, and a random LLaVA of about 250 M parameters
with 576 image tokens.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import numpy as np
import torch
import transformers
import typer
from hf_overhead import IMAGE_TOKENS
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from adaptvis.cli.models import CONVERGED, embedded_models
from adaptvis.engine import Engine
from adaptvis.evaluation import Method, ModelPlan, Plan, evaluate
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Part, Sample, Task, get_task
from adaptvis.tuning import Grid, run_sweep, select

# Alpha 1 is the unsteered answer and costs nothing: 10 and 16 coefficients.
ALPHAS_10 = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)
ALPHAS_16 = (*ALPHAS_10, 0.6, 1.1, 1.35, 1.75, 2.25, 4.0)
TARGET = 1.8
PIXELS, PATCH = 336, 14
# One word and the end of the answer.
WORD = 2


class Row(NamedTuple):
    """One model: medians over the rounds of seconds, and of the rounds' own ratios.

    seconds: of the unsteered evaluation, and of the search within a sweep. Ratios: of the wall
    clock and of processor time, over the unsteered evaluation of the same round.
    """

    model: str
    questions: int
    batch: int
    baseline_seconds: float
    search_seconds: float
    wall_10: float
    wall_16: float
    processor_10: float
    processor_16: float

    @property
    def per_setting(self) -> float:
        """One more coefficient, in unsteered evaluations, by processor time."""
        return (self.processor_16 - self.processor_10) / 6


def random_llava(layers: int) -> HFEngine:
    """A LLaVA shaped as `hf_overhead.py`'s, with the embedded model's small vocabulary."""
    folder = embedded_models()[CONVERGED]
    processor = AutoProcessor.from_pretrained(folder)
    processor.patch_size = PATCH
    processor.image_processor.size = {"shortest_edge": PIXELS}
    processor.image_processor.crop_size = {"height": PIXELS, "width": PIXELS}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=PIXELS,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=16,
        ),
        image_token_index=processor.image_token_id,
        image_seq_length=IMAGE_TOKENS,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return HFEngine(model, processor, "random LLaVA")


def photographs(count: int, part: Part) -> list[Sample]:
    """Questions of 30 words about noise; there is nothing to know about it."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (count, PIXELS, PIXELS, 3), dtype=np.uint8)
    return [
        Sample(
            id=str(i),
            prompt=" ".join(["where is the red circle ?"] * 5),
            images=partial(_picture, noise[i]),
            gold=("left",),
            category="noise",
            image_id=str(i),
        )
        for i in range(count)
    ]


def _picture(values: np.ndarray) -> tuple[Image.Image, ...]:
    return (Image.fromarray(values),)


def measure(
    name: str, engine: Engine, task: Task, limit: int | None, batch: int, rounds: int
) -> Row:
    """Alternate the three runs after one round that warms up."""
    questions = len(task.load(limit, "validation"))

    def baseline(folder: Path) -> None:
        plan = Plan(
            (ModelPlan(name, name, (Method("baseline"),)),),
            (task,),
            batch_size=batch,
            limit=limit,
            part="validation",
        )
        evaluate(plan, lambda _: engine, folder)

    searches: list[float] = []

    def sweep(alphas: tuple[float, ...], folder: Path) -> None:
        found = run_sweep(
            lambda: engine, task, Grid(alphas=alphas), folder, limit=limit, batch_size=batch
        )
        start = time.perf_counter()
        # Fewer give no threshold to search for; its time at real sizes is in the tests.
        if questions >= 100:
            select(found)
        searches.append(time.perf_counter() - start)

    contestants: dict[str, Callable[[Path], None]] = {
        "baseline": baseline,
        "10": partial(sweep, ALPHAS_10),
        "16": partial(sweep, ALPHAS_16),
    }
    wall: dict[str, list[float]] = {which: [] for which in contestants}
    processor: dict[str, list[float]] = {which: [] for which in contestants}
    for index in track(range(rounds + 1), description=name):
        for which, run in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                start, cpu = time.perf_counter(), time.process_time()
                run(Path(folder) / "run")
                if index:
                    wall[which].append(time.perf_counter() - start)
                    processor[which].append(time.process_time() - cpu)

    def ratio(times: dict[str, list[float]], which: str) -> float:
        return median(a / b for a, b in zip(times[which], times["baseline"], strict=True))

    return Row(
        name,
        questions,
        batch,
        median(wall["baseline"]),
        median(searches),
        ratio(wall, "10"),
        ratio(wall, "16"),
        ratio(processor, "10"),
        ratio(processor, "16"),
    )


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds on the embedded model.")] = 5,
    large_rounds: Annotated[int, typer.Option(help="The same on the larger model.")] = 3,
    limit: Annotated[int, typer.Option(help="Questions to the embedded model.")] = 300,
    large_questions: Annotated[int, typer.Option(help="Questions to the larger model.")] = 4,
    layers: Annotated[int, typer.Option(help="Of the larger model; 18 make about 250 M.")] = 18,
    output: Annotated[Path, typer.Option(help="Result table, Markdown.")] = Path(
        "benchmarks/results/sweep_cost.md"
    ),
) -> None:
    """Measure and write the table."""
    embedded = HFEngine.load(embedded_models()[CONVERGED])
    rows = [measure(CONVERGED, embedded, get_task("2ds"), limit, min(100, limit), rounds)]
    large = random_llava(layers)
    size = sum(p.numel() for p in large.model.parameters()) / 1e6
    noise = Task("noise", "", partial(photographs, large_questions), max_new_tokens=WORD)
    name = f"random LLaVA, {size:.0f} M"
    rows.append(measure(name, large, noise, None, min(4, large_questions), large_rounds))
    command = (
        f"python benchmarks/sweep_cost.py --rounds {rounds} --large-rounds {large_rounds} "
        f"--limit {limit} --large-questions {large_questions} --layers {layers}"
    )
    report(rows, command, output)


def report(rows: list[Row], command: str, output: Path) -> None:
    """Print the table and write it as Markdown, with JSON beside it."""
    header = (
        "model",
        "questions",
        "unsteered (s)",
        "10 alphas + search, time",
        "processor time",
        "16 alphas + search, time",
        "processor time",
        "one more alpha",
    )
    table = Table(title="A sweep, in unsteered evaluations of the same questions")
    for name in header:
        table.add_column(name)
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (
            row.model,
            str(row.questions),
            f"{row.baseline_seconds:.2f}",
            f"{row.wall_10:.2f}x",
            f"{row.processor_10:.2f}x",
            f"{row.wall_16:.2f}x",
            f"{row.processor_16:.2f}x",
            f"{row.per_setting:.3f}x",
        )
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    Console().print(table)
    setting = (
        f"`{command}`: medians of the ratios within so many interleaved rounds; the target for 10 "
        f"alphas is {TARGET}x. Whole runs: pictures, answers, grades, and records on disk; the "
        "search is over every pair of coefficients and every threshold with five-fold "
        f"cross-validation (median {rows[0].search_seconds:.2f} s of the embedded model's sweeps; "
        "too few questions for it on the other model). Answers are one word: the embedded model "
        f"ends them itself, the other model is cut at {WORD} tokens. Batches of "
        f"{' and '.join(str(row.batch) for row in rows)}, float32, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}. The machine was shared: processor time is the steadier "
        "figure."
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("# Cost of a sweep\n\n" + setting + "\n\n" + "\n".join(lines) + "\n")
    values = [{**row._asdict(), "per_setting": row.per_setting} for row in rows]
    output.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
