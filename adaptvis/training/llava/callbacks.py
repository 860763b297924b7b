"""What happens around the Trainer's steps: log file, guard, progress, whole checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adaptvis.errors import AdaptVisError
from adaptvis.training.llava.checkpoints import last_complete, mark_complete
from adaptvis.training.llava.processes import is_first, wait

__all__ = [
    "Epochs",
    "Guard",
    "LogFile",
    "NoCheckpointAtTheEnd",
    "Progress",
    "Report",
    "TrainingStopped",
    "WholeCheckpoints",
]

Report = dict[str, float | int | str]
"""stage, step, steps, loss, learning_rate, grad_norm, samples_per_second."""
Progress = Callable[[Report], None]


class TrainingStopped(AdaptVisError):
    """The loss or the gradient is no finite number any more."""


class Guard(TrainerCallback):
    """Stops at the first loss or gradient norm that is not finite, before anything is saved."""

    def __init__(self, stage: str, folder: Path, learning_rate: str) -> None:
        """`learning_rate` is the setting that gives it, for the message."""
        self.stage, self.folder, self.learning_rate = stage, folder, learning_rate

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raises in every process: loss and gradient norm are the same in all."""
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = (logs or {}).get(key)
            if value is not None and not math.isfinite(value):
                raise TrainingStopped(
                    f"The {name} became {value} at step {state.global_step} of {self.stage}, so "
                    f"training stopped and {self._kept()}; with --resume try a lower learning rate "
                    f"(--set {self.learning_rate}={args.learning_rate / 2:g}) or a longer warm-up, "
                    "or look at the data of that step"
                )

    def _kept(self) -> str:
        kept = last_complete(self.folder)
        if kept is None:
            return "there is no checkpoint of this stage yet, which begins anew"
        return f"the last good checkpoint, {kept}, is kept"


class LogFile(TrainerCallback):
    """One JSON line per step in `train_log.jsonl`, and the same to whoever shows progress."""

    def __init__(self, path: Path, stage: str, samples: int, progress: Progress | None) -> None:
        self.path, self.stage, self.samples, self.progress = path, stage, samples, progress
        self.clock = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what was logged behind the checkpoint that training continues from."""
        self.clock = time.perf_counter()
        if not is_first():
            return
        kept = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and not self._is_ahead(json.loads(line), state.global_step):
                    kept.append(line)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(self.path)

    def _is_ahead(self, entry: Report, step: int) -> bool:
        return entry["stage"] == self.stage and int(entry["step"]) > step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append the step."""
        if not is_first() or not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        report: Report = {
            "stage": self.stage,
            "step": state.global_step,
            "steps": state.max_steps,
            **{k: logs[k] for k in ("loss", "learning_rate", "grad_norm") if k in logs},
            "samples_per_second": round(self.samples / max(now - self.clock, 1e-9), 2),
        }
        self.clock = now
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
        if self.progress is not None:
            self.progress(report)


class Epochs(TrainerCallback):
    """Tells the sampler its epoch; accelerate does not reach it behind its own wrappers."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's order is drawn."""
        self.sampler.set_epoch(int(state.epoch or 0))


class WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint when every process has written its part of it."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called behind the last file."""
        wait()
        if is_first():
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        wait()


class NoCheckpointAtTheEnd(TrainerCallback):
    """The finished model is written right behind the last step.

    The Trainer, resumed from a checkpoint of the last step, would do one step too many.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Behind the library's own decision."""
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control
