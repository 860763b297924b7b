"""Linear probes of places on object tokens, and the directions that amplification takes.

Source: The Dual Mechanisms of Spatial Reasoning in Vision-Language Models, sections 5.1 and 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from adaptvis.config import SteeringConfig
from adaptvis.data.three_objects import Axis, Item, Kind, all_items
from adaptvis.data.three_objects.items import Wording
from adaptvis.diagnostics.direction_fit import DirectionFit, fit_direction
from adaptvis.diagnostics.intervals import above
from adaptvis.diagnostics.linear_probe import Training, fit_probe, split_by_group
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.residual_stream import image_embeddings, last_logits
from adaptvis.diagnostics.results import Finding, Result
from adaptvis.diagnostics.three_object_questions import Questions
from adaptvis.errors import ConfigError, DataError, OutputError
from adaptvis.evaluation.statistics import FEWEST_IMAGES, clustered_interval
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.patch import steer
from adaptvis.steering.directions import write_directions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "AXES",
    "DIRECTIONS_FILE",
    "DirectionFit",
    "ProbeAccuracy",
    "ProbesResult",
    "measure_probes",
]

AXES: tuple[Axis, ...] = ("horizontal", "vertical")
DIRECTIONS_FILE = "directions.safetensors"
PLACES = ("first", "middle", "last")
SERIES = ("least squares", "published training", "shuffled labels")
_TRAINING_SHARE = 0.75
_CLAIMED = 0.8


@dataclass(frozen=True)
class ProbeAccuracy:
    """A probe of three places on object tokens of pictures that it has not seen.

    series: one of :data:`SERIES`: how it was trained. accuracy: of the held-out tokens, with its
        95 % interval, clustered by picture. recall: of each of :data:`PLACES`.
    """

    axis: Axis
    series: str
    training_tokens: int
    tokens: int
    images: int
    accuracy: float
    low: float
    high: float
    recall: tuple[float, float, float]


@dataclass(frozen=True)
class ProbesResult(Result):
    """Probe accuracies and fitted directions per axis.

    directions: name of the file that was written; empty where there is none.
    without_directions: why none could be fitted, one sentence; else empty.
    """

    instrument: ClassVar[str] = "probes"
    title: ClassVar[str] = "Linear probes of places"
    source: ClassVar[str] = "The Dual Mechanisms of Spatial Reasoning in VLMs, sections 5.1 and 5.4"

    probes: tuple[ProbeAccuracy, ...] = ()
    fits: tuple[DirectionFit, ...] = ()
    directions: str = ""
    without_directions: str = ""
    cosine: float | None = None

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {axis: {} for axis in dict.fromkeys(p.axis for p in self.probes)}
        for probe in self.probes:
            found[probe.axis][probe.series] = {
                "accuracy": probe.accuracy,
                "interval": [probe.low, probe.high],
            }
        for fit in self.fits:
            found[fit.axis] |= {
                "direction_held_out_accuracy": fit.held_out,
                "direction_questions": fit.questions,
            }
        if self.directions:
            found |= {"directions": self.directions, "cosine_of_directions": self.cosine}
        if self.without_directions:
            found["directions"] = self.without_directions
        return found

    def rows(self) -> list[dict[str, Any]]:
        fits = {fit.axis: fit for fit in self.fits}
        rows = []
        for probe in self.probes:
            row = asdict(probe)
            row |= dict(zip((f"recall_{p}" for p in PLACES), row.pop("recall"), strict=True))
            fit = fits.get(probe.axis)
            for name in ("asked", "questions", "held_out_questions", "held_out", "norm"):
                row[f"direction_{name}"] = None if fit is None else getattr(fit, name)
            rows.append(row)
        return rows

    def figure(self) -> Figure:
        from adaptvis.diagnostics.probes_figure import draw

        return draw(self)

    def reading(self) -> str:
        kind = self.settings.get("kind", "squares")
        text = (
            f"Pictures of three {kind} in a row (horizontal) and in a column (vertical). A linear "
            "probe reads from one object token, as the language model receives it, whether its "
            "object is the first, the middle or the last one. It is fitted to three quarters of "
            "the pictures and measured on the rest; bars are 95 % intervals over pictures. The "
            "published training takes 200 small steps and finds places that are written large; "
            "least squares finds all that a linear probe can. Shuffled labels are its control: "
            "what is above them and above chance (dotted) is written in the token linearly. That "
            "does not say that the model uses it: compare interchange. Below chance means nothing "
            "more than chance: all triples occur, so a name that is often first among the fitted "
            "pictures is rarely first among the others."
        )
        if self.directions:
            fits = "; ".join(
                f"{f.axis}: {f.questions} right answers of {f.asked}, held-out accuracy "
                f"{100 * f.held_out:.0f} %"
                for f in self.fits
            )
            text += (
                f" Directions for amplification are two-class probes ({self.settings['training']}):"
                " first end against last, on "
                f"the mean embedding of the answer's tokens of rightly answered questions ({fits})."
            )
        if self.without_directions:
            text += f" No directions for amplification: {self.without_directions}."
        return text

    def findings(self) -> list[Finding]:
        found = []
        by_series = {(probe.axis, probe.series): probe for probe in self.probes}
        for axis in dict.fromkeys(probe.axis for probe in self.probes):
            best, published, shuffled = (by_series[axis, series] for series in SERIES)
            unseen = f"of {best.tokens} tokens in {best.images} unseen pictures"
            control = f"shuffled labels {_percent(shuffled)}"
            found += [
                Finding(
                    f"The published procedure reads the {axis} place from object tokens linearly "
                    "(accuracy above 80 %)",
                    f"The published training reads {_percent(published)} {unseen}; {control}",
                    _above(published),
                ),
                Finding(
                    f"The {axis} place is readable from object tokens by least squares (the same "
                    "line, a better fit than the published one)",
                    f"Least squares reads {_percent(best)} {unseen}; {control}",
                    _above(best),
                ),
            ]
        return found


def measure_probes(
    engine: HFEngine,
    *,
    kind: Kind = "squares",
    wording: Wording | None = None,
    directions: str | Path | None = None,
    training: Training = "least_squares",
    config: SteeringConfig | None = None,
    batch_size: int = 50,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> ProbesResult:
    """Fit the probes of both axes, and the directions of amplification if they are wanted.

    Args:
        directions: a safetensors file to write for :class:`adaptvis.Amplify`; for it the model
            answers every question of the kind. None fits no directions. Where too few are answered
            rightly, nothing is written, a file of that name is removed, and the result says why.
        training: of the directions; "published" as in the paper.
        config: steers the model meanwhile; an Amplify or NormRescale changes what is probed.
        batch_size: pictures at once.

    Raises:
        ConfigError: a batch size below 1. DataError: too few names are single tokens.
        UnsupportedError: see :func:`adaptvis.diagnostics.three_object_questions.layout_of`.
        OutputError: the file cannot be written.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size must be at least 1, got {batch_size}")
    questions = Questions.for_model(engine, kind, wording)
    items = all_items(kind, questions.names)
    probes: list[ProbeAccuracy] = []
    fits: list[DirectionFit] = []
    vectors: dict[str, Tensor] = {}
    problems: list[str] = []
    for axis in AXES:
        own = [item for item in items if item.axis == axis]
        right: list[bool] = []
        with steer(engine.model, config, processor=engine.processor):
            # Of the two questions about a picture, the first stands for it.
            embeddings = _object_tokens(questions, own[::2], axis, batch_size, progress)
            if directions is not None:
                right = _answered_rightly(questions, own, batch_size, progress)
        probes += _probes(embeddings, axis, seed)
        if directions is not None:
            try:
                fit, vectors[axis] = fit_direction(own, right, embeddings, axis, training, seed)
            except DataError as problem:
                # The probes are worth having without directions.
                problems.append(str(problem))
            else:
                fits.append(fit)
    cosine = None
    if directions is not None and problems:
        _remove(Path(directions))
    elif directions is not None:
        cosine = float(torch.cosine_similarity(vectors["horizontal"], vectors["vertical"], dim=0))
        write_directions(
            directions,
            vectors,
            {
                "model_type": engine.describe()["model_type"],
                "kind": kind,
                "training": training,
                "wording": questions.wording,
                "steering": None if config is None else config.to_dict(),
                "seed": seed,
                "fits": [asdict(fit) for fit in fits],
            },
        )
    return ProbesResult(
        engine=engine.describe(),
        settings={
            **(settings or {}),
            "kind": kind,
            "wording": questions.wording,
            "prompt": items[0].prompt(questions.wording),
            "names": list(questions.names),
            "pictures_per_axis": len(items) // 4,
            "object_tokens": questions.layout.size,
            "grid": questions.layout.grid,
            "training": training,
            "steering": None if config is None else config.to_dict(),
            "seed": seed,
        },
        probes=tuple(probes),
        fits=tuple(fits),
        directions="" if directions is None or problems else Path(directions).name,
        without_directions="; ".join(problems),
        cosine=cosine,
    )


def _remove(path: Path) -> None:
    """No directions of an earlier run are left to be taken for this one's."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot remove the old directions {path}: {error.strerror}; give another folder"
        ) from None


def _object_tokens(
    questions: Questions, items: Sequence[Item], axis: Axis, batch_size: int, progress: Progress
) -> Tensor:
    """Tokens of the three objects of each picture: float32 [pictures, 3, tokens, D]."""
    layout = questions.layout
    slots = [slot.tokens(layout.grid) for slot in layout.slots(axis)]
    tokens = [token for slot in slots for token in slot]
    parts = []
    for start in range(0, len(items), batch_size):
        progress(f"{axis} pictures", start, len(items))
        images = [item.image(layout) for item in items[start : start + batch_size]]
        parts.append(image_embeddings(questions.engine, images, batch_size, tokens))
    progress(f"{axis} pictures", len(items), len(items))
    found = torch.cat(parts)
    return found.view(len(items), len(slots), len(slots[0]), found.shape[-1])


def _probes(embeddings: Tensor, axis: Axis, seed: int) -> list[ProbeAccuracy]:
    """One probe per series, on the same pictures."""
    pictures, places, tokens, width = embeddings.shape
    features = embeddings.reshape(-1, width)
    labels = torch.arange(places)[None, :, None].expand(pictures, places, tokens).reshape(-1)
    groups = torch.arange(pictures)[:, None].expand(pictures, places * tokens).reshape(-1)
    trains = split_by_group(groups.tolist(), _TRAINING_SHARE, seed=seed)
    own = labels[trains]
    shuffled = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed + 1))]
    truth, unseen = labels[~trains], groups[~trains].tolist()
    given: tuple[tuple[Tensor, Training], ...] = (
        (own, "least_squares"),
        (own, "published"),
        (shuffled, "least_squares"),
    )
    found = []
    for series, (target, training) in zip(SERIES, given, strict=True):
        probe = fit_probe(features[trains], target, places, training=training, seed=seed)
        right = probe.predict(features[~trains]) == truth
        low, high = clustered_interval(right.tolist(), [str(g) for g in unseen], seed=seed)
        recall = [right[truth == place].double().mean().item() for place in range(places)]
        found.append(
            ProbeAccuracy(
                axis=axis,
                series=series,
                training_tokens=len(own),
                tokens=len(truth),
                images=len(set(unseen)),
                accuracy=right.double().mean().item(),
                low=low,
                high=high,
                recall=(recall[0], recall[1], recall[2]),
            )
        )
    return found


def _above(probe: ProbeAccuracy) -> bool | None:
    if probe.images < FEWEST_IMAGES:
        return None
    return above(_CLAIMED, probe.low, probe.high)


def _percent(probe: ProbeAccuracy) -> str:
    return f"{100 * probe.accuracy:.0f} % ({100 * probe.low:.0f} to {100 * probe.high:.0f} %)"


def _answered_rightly(
    questions: Questions, items: Sequence[Item], batch_size: int, progress: Progress
) -> list[bool]:
    right = []
    for start in range(0, len(items), batch_size):
        progress("questions", start, len(items))
        part = items[start : start + batch_size]
        names = questions.probabilities(last_logits(questions.engine, questions.encode(part)))
        best = names.argmax(dim=-1).tolist()
        right += [
            questions.names[index] == item.answer for index, item in zip(best, part, strict=True)
        ]
    progress("questions", len(items), len(items))
    return right
