"""Two models side by side in one page, with an instrument of your own beside ours.

python examples/diagnostics/report.py
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.drawing import new_figure
from adaptvis.diagnostics.report import INSTRUMENTS, Instrument, Subject, examine, write_page
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task


@dataclass(frozen=True, kw_only=True)
class Lengths(Result):
    """How many tokens the prompts have."""

    instrument = "lengths"
    title = "Lengths of the prompts"
    source = "this example"

    tokens: tuple[int, ...]

    def summary(self) -> dict[str, Any]:
        return {"shortest": min(self.tokens), "longest": max(self.tokens)}

    def rows(self) -> list[dict[str, Any]]:
        return [{"prompt": i, "tokens": count} for i, count in enumerate(self.tokens)]

    def figure(self) -> Any:
        figure, axes = new_figure()
        axes.hist(self.tokens)
        axes.set_xlabel("tokens of the prompt")
        return figure

    def reading(self) -> str:
        return f"The number of tokens of {len(self.tokens)} prompts, image tokens included."

    def findings(self) -> list[Finding]:
        longest = max(self.tokens)
        return [Finding("Prompts are short", f"at most {longest} tokens", longest < 1000)]


def measure_lengths(subject: Subject) -> Lengths:
    """The instrument: from a model and questions to a result."""
    encoded = [subject.engine.encode([sample.query()]) for sample in subject.samples]
    tokens = tuple(int(inputs["input_ids"].shape[1]) for inputs in encoded)
    return Lengths(engine=subject.engine.describe(), settings=subject.settings, tokens=tokens)


def main(folder: Path = Path("diagnostics"), questions: int = 60) -> Path:
    """Where the page is."""
    models = ("tiny-2ds-shortcut-seed1", "tiny-2ds-seed1")
    examined = [
        examine(
            model,
            partial(HFEngine.load, resolve_model(model).source),
            get_task("2ds"),
            folder / model,
            command=lambda i, count: f"adaptvis diagnose {i.name} --limit {count}",
            instruments=(*INSTRUMENTS[:1], Instrument("lengths", 60, measure_lengths)),
            limit=questions,
            batch_size=32,
        )
        for model in models
    ]
    path = write_page(
        examined, folder, command="python examples/diagnostics/report.py", about={"task": "2ds"}
    )
    print(f"Look at {path}")
    return path


if __name__ == "__main__":
    main()
