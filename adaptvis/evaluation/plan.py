"""What a run evaluates: models, each with its methods, on tasks."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptvis import __version__
from adaptvis.config import SteeringConfig
from adaptvis.errors import ConfigError, unknown_name
from adaptvis.evaluation.output import RUN, SWEEP
from adaptvis.evaluation.shards import Shard
from adaptvis.presets import MODEL_PRESETS_FILE
from adaptvis.tasks import PARTS, PROMPTS, Part, Prompts, Task

__all__ = ["Method", "ModelPlan", "Plan", "fingerprint"]


@dataclass(frozen=True)
class Method:
    """A named steering configuration; None is the unsteered baseline."""

    name: str
    config: SteeringConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "config": self.config.to_dict() if self.config else None}


@dataclass(frozen=True)
class ModelPlan:
    """One model under a short name with the methods it is asked with.

    source: a folder, or a name on the hub.
    """

    name: str
    source: str
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's records, and the batch size, which decides nothing.

    batch_size: questions per batch; None finds one that fits memory.
    shard: ask only this part of the questions.
    settings: engine, dtype and whatever else the caller used to load the models; kept with the
        results and compared on resume.
    """

    models: tuple[ModelPlan, ...]
    tasks: tuple[Task, ...]
    batch_size: int | None = 64
    limit: int | None = None
    part: Part = "test"
    seed: int = 0
    prompts: Prompts = "chat"
    shard: Shard | None = None
    settings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"The batch size must be at least 1, got {self.batch_size}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"The limit must be at least 1 question, got {self.limit}")
        if self.part not in PARTS:
            raise ConfigError(unknown_name("part", self.part, PARTS))
        if self.prompts not in PROMPTS:
            raise ConfigError(unknown_name("prompts", self.prompts, PROMPTS))
        if self.seed < 0:
            raise ConfigError(f"The seed must not be negative, got {self.seed}")
        _distinct("model", [m.name for m in self.models])
        _distinct("task", [t.name for t in self.tasks])
        for model in self.models:
            _distinct(f"method of model {model.name!r}", [m.name for m in model.methods])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `run.json`."""
        return {
            "adaptvis": __version__,
            "models": [
                {
                    "name": m.name,
                    "source": m.source,
                    "fingerprint": fingerprint(m.source),
                    "methods": [method.to_dict() for method in m.methods],
                }
                for m in self.models
            ],
            "tasks": [
                {"name": t.name, "source": t.source, "max_new_tokens": t.max_new_tokens}
                for t in self.tasks
            ],
            "part": self.part,
            "limit": self.limit,
            "seed": self.seed,
            "prompts": self.prompts,
            "shard": str(self.shard) if self.shard else None,
            **dict(self.settings),
        }


def fingerprint(source: str) -> str | None:
    """A digest of a local model folder; None for a name on the hub.

    Names, sizes and contents of its files count, those in subfolders too. A file of up to 16 MiB
    counts whole; of a larger one 16 evenly spaced blocks of 1 MiB, both ends among them, so that
    it stays cheap: a change that lies between them and keeps the size goes unseen. Hidden files,
    the presets that tuning stores in the folder, and results that were written into it do not
    count: they change no answer.
    """
    folder = Path(source)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in _model_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
        with path.open("rb") as file:
            if size <= _BLOCKS * _BLOCK:
                digest.update(file.read())
                continue
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


_BLOCK, _BLOCKS = 2**20, 16


def _model_files(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here != folder and {RUN, SWEEP} & set(names):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [here / name for name in names if not name.startswith(".")]
    own = folder / MODEL_PRESETS_FILE
    return sorted(path for path in found if path != own and path.is_file())


def _distinct(kind: str, names: list[str]) -> None:
    if not names:
        raise ConfigError(f"At least one {kind} is needed")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"The {kind} {name!r} is given {count} times; each may occur once")
