"""What an evaluation costs beside its model's own `generate`, and what it holds in memory.

    python benchmarks/eval_throughput.py

Speed: `adaptvis.evaluation.evaluate` (pictures, prompts, answers, grades, records on disk) against
a bare loop of processor, `generate` and decoding over the same questions in the same batches, on
an embedded model. Both alternate within each round. Loading the model and the questions counts for
neither.

Memory: resident memory along a run over generated questions with three methods. An engine that
answers at once stands in for the model there, and only there.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from rich.table import Table

from adaptvis.config import AdaptVis, ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.evaluation import Method, ModelPlan, Plan, evaluate
from adaptvis.evaluation.summary import summarise
from adaptvis.tasks import Part, Sample, Task, get_task

METHODS = (
    Method("baseline"),
    Method("scalingvis", ScalingVis(alpha=1.5)),
    Method("adaptvis", AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)),
)
TARGET = 1.10
HEADERS = (
    "evaluation",
    "bare loop (q/s)",
    "evaluation (q/s)",
    "time ratio",
    "processor time ratio",
)


class Speed(NamedTuple):
    """One comparison: median seconds, and medians of the rounds' own ratios."""

    what: str
    bare_seconds: float
    seconds: float
    ratio: float
    processor_ratio: float


def resident_mib() -> float:
    """Resident memory of this process, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class InstantEngine:
    """Answers without a model; opens nothing and keeps nothing."""

    name = "instant"

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        return [
            [
                Answer(("left", "right")[len(q.prompt) % 2], (1,), 0.5, 1.0, c is not None)
                for q in queries
            ]
            for c in configs
        ]

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}


def generated_task(questions: int) -> Task:
    """Three questions about each picture, which is drawn when it is asked about."""

    def picture(number: int) -> tuple[Image.Image, ...]:
        image = Image.new("RGB", (336, 336), "white")
        ImageDraw.Draw(image).ellipse([number % 300, 50, number % 300 + 30, 80], fill="red")
        return (image,)

    def loader(part: Part) -> list[Sample]:
        return [
            Sample(
                id=f"question-{i}",
                prompt=f"Is object number {i} left or right of the other one?",
                images=lambda i=i: picture(i // 3),
                gold=("left",),
                category=f"category {i % 6}",
                image_id=f"image-{i // 3}",
                candidates=("left", "right"),
            )
            for i in range(questions)
        ]

    return Task("generated", "", loader, source="generated")


def measure_memory(questions: int, batch_size: int) -> list[tuple[str, float]]:
    """Resident MiB at points of a run; a run of 1000 questions comes first and warms up."""
    found: list[tuple[str, float]] = []
    for count in (1000, questions):
        task = generated_task(count)
        plan = Plan((ModelPlan("instant", "none", METHODS),), (task,), batch_size=batch_size)
        found = [("before", resident_mib())]
        marks = [count * share // 10 for share in (1, 5, 10)]

        def progress(
            model: str,
            task: str,
            done: int,
            total: int,
            found: list[tuple[str, float]] = found,
            marks: list[int] = marks,
        ) -> None:
            if len(found) == 1:
                found.append(("questions loaded, first batch written", resident_mib()))
            while marks and done >= marks[0]:
                found.append((f"{marks.pop(0)} questions asked", resident_mib()))

        with tempfile.TemporaryDirectory() as folder:
            run = evaluate(plan, lambda m: InstantEngine(), Path(folder) / "run", progress=progress)
            summarise(run.records)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found.append(("peak, while the summary is made", peak))
        del run
        gc.collect()
    return found


def measure_speed(questions: int, batch_size: int, rounds: int, model: str) -> list[Speed]:
    """The bare loop against evaluations with one method and with three."""
    import torch

    from adaptvis.cli.models import resolve_model
    from adaptvis.hf.engine import HFEngine

    source = resolve_model(model).source
    bare, engine = HFEngine.load(source), HFEngine.load(source)
    samples = get_task("2ds").load(questions)
    task = Task("2ds", "", lambda part: samples, source="2ds")

    @torch.inference_mode()
    def loop() -> list[str]:
        answers: list[str] = []
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            inputs = bare.encode([sample.query() for sample in batch])
            output: Any = bare.model.generate(
                **inputs, max_new_tokens=task.max_new_tokens, do_sample=False, num_beams=1
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            texts = bare.processor.batch_decode(new, skip_special_tokens=True)
            answers += [text.strip() for text in texts]
        return answers

    def evaluation(methods: Sequence[Method]) -> list[str]:
        plan = Plan((ModelPlan(model, source, tuple(methods)),), (task,), batch_size=batch_size)
        with tempfile.TemporaryDirectory() as folder:
            run = evaluate(plan, lambda m: engine, Path(folder) / "run")
            return [r.answer for r in run.records if r.method == "baseline"]

    if loop() != evaluation(METHODS):
        raise SystemExit("the evaluation's unsteered answers are not those of generate")
    wall: dict[str, list[float]] = {"bare": [], "one": [], "three": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    for _ in track(range(rounds), description="rounds"):
        for name, run in (
            ("bare", loop),
            ("one", lambda: evaluation(METHODS[:1])),
            ("three", lambda: evaluation(METHODS)),
        ):
            start, busy = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)

    def ratio(name: str, seconds: dict[str, list[float]]) -> float:
        return median(a / b for a, b in zip(seconds[name], seconds["bare"], strict=True))

    base = median(wall["bare"])
    return [
        Speed(what, base, median(wall[name]), ratio(name, wall), ratio(name, cpu))
        for name, what in (("one", "unsteered"), ("three", "three methods, one prefill"))
    ]


def main(
    questions: Annotated[int, typer.Option(help="Generated questions for memory.")] = 20_000,
    asked: Annotated[int, typer.Option(help="2DS questions for speed.")] = 600,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 64,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    model: Annotated[str, typer.Option(help="Embedded model for speed.")] = "tiny-2ds-seed1",
    output: Annotated[Path, typer.Option(help="Result tables, Markdown.")] = Path(
        "benchmarks/results/eval_throughput.md"
    ),
) -> None:
    """Measure and write the tables."""
    # First, while torch is not there to add its own.
    memory = measure_memory(questions, batch_size)
    speed = measure_speed(asked, batch_size, rounds, model)

    import torch
    import transformers

    command = (
        f"python benchmarks/eval_throughput.py --questions {questions} --asked {asked} "
        f"--batch-size {batch_size} --rounds {rounds} --model {model}"
    )
    lines = [
        "# Throughput and memory of an evaluation",
        "",
        f"`{command}`; {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, transformers {transformers.__version__}.",
        "",
        f"{asked} 2DS questions in batches of {batch_size} on {model}, medians of {rounds} "
        "interleaved rounds. The bare loop is processor, `generate` and decoding; its answers were "
        "compared with the unsteered ones and are equal. Ratios are medians of the rounds' own.",
        "",
        f"| {' | '.join(HEADERS)} | target |",
        "|---|---|---|---|---|---|",
    ]
    table = Table()
    for header in HEADERS:
        table.add_column(header)
    for index, row in enumerate(speed):
        rates = [f"{asked / seconds:.1f}" for seconds in (row.bare_seconds, row.seconds)]
        cells = [row.what, *rates, f"{row.ratio:.3f}", f"{row.processor_ratio:.3f}"]
        table.add_row(*cells)
        target = "" if index else f"<= {TARGET:.2f}"
        lines.append(f"| {' | '.join(cells)} | {target} |")
    lines += [
        "",
        f"Resident memory of a run over {questions} generated questions with three methods "
        f"({3 * questions} records). An engine that answers at once stands in for the model.",
        "",
        "| at | MiB |",
        "|---|---|",
        *[f"| {what} | {value:.0f} |" for what, value in memory],
    ]
    console = Console()
    console.print(table)
    for what, value in memory:
        console.print(f"{value:8.0f} MiB  {what}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n")
    values = {"command": command, "speed": [row._asdict() for row in speed], "memory_mib": memory}
    output.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
