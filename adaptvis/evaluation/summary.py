"""From records to accuracies and gains per group of questions, and to `summary.json`.

Tables and plots read the summary; nothing but this module counts records.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptvis.evaluation.environment import versions
from adaptvis.evaluation.failures import Failures
from adaptvis.evaluation.output import SUMMARY, write_atomically
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.statistics import Gain, paired_gain, wilson_interval

__all__ = ["ALL", "GROUPINGS", "Accuracy", "PairedGain", "Summary", "summarise", "write_summary"]

ALL = "all questions"


def _agreement(record: Record) -> str | None:
    if record.agrees_with_prior is None:
        return None
    return "prior is right" if record.agrees_with_prior else "prior is wrong"


GROUPINGS: dict[str, Callable[[Record], str | None]] = {
    "all": lambda record: ALL,
    "category": lambda record: record.category,
    "object_count": lambda r: None if r.object_count is None else str(r.object_count),
    "prior": _agreement,
}
"""How questions are grouped; None leaves a question out of that grouping."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One method on one group of questions. Fractions; the interval is Wilson's, 95 %.

    applied: share of the questions for which the steered pass ran.
    """

    model: str
    task: str
    method: str
    grouping: str
    group: str
    questions: int
    correct: int
    accuracy: float
    low: float
    high: float
    strict_accuracy: float
    in_candidates: float
    applied: float
    mean_confidence: float | None
    alphas: dict[str, int]


@dataclass(frozen=True, slots=True)
class PairedGain:
    """A method against a reference method on one group of questions."""

    model: str
    task: str
    method: str
    reference: str
    grouping: str
    group: str
    gain: Gain


@dataclass(frozen=True)
class Summary:
    """All accuracies and gains of a run, in the order of its records."""

    accuracies: tuple[Accuracy, ...]
    gains: tuple[PairedGain, ...]

    def pairs(self) -> list[tuple[str, str]]:
        """The (model, task) combinations of the run."""
        return list(dict.fromkeys((a.model, a.task) for a in self.accuracies))

    def methods(self, model: str, task: str) -> list[str]:
        found = [a.method for a in self.accuracies if (a.model, a.task) == (model, task)]
        return list(dict.fromkeys(found))

    def accuracies_of(self, model: str, task: str, grouping: str) -> list[Accuracy]:
        key = (model, task, grouping)
        return [a for a in self.accuracies if (a.model, a.task, a.grouping) == key]

    def gains_of(self, model: str, task: str, grouping: str = "all") -> list[PairedGain]:
        key = (model, task, grouping)
        return [g for g in self.gains if (g.model, g.task, g.grouping) == key]


def summarise(records: Iterable[Record], *, seed: int = 0) -> Summary:
    """Accuracies of every method, and gains over the first method and over the one before.

    Questions that could not be asked count in none of them.

    Args:
        seed: of the bootstrap.
    """
    by_pair: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(dict)
    for record in records:
        if record.error:
            continue
        methods = by_pair[record.model, record.task]
        methods.setdefault(record.method, []).append(record)
    accuracies: list[Accuracy] = []
    gains: list[PairedGain] = []
    for (model, task), methods in by_pair.items():
        names = list(methods)
        comparisons = [(name, names[0]) for name in names[1:]]
        comparisons += list(zip(names[2:], names[1:-1], strict=True))
        for grouping, group_of in GROUPINGS.items():
            for group, members in _groups(methods[names[0]], group_of).items():
                chosen = {n: [methods[n][i] for i in members] for n in names}
                accuracies += [_accuracy(model, task, n, grouping, group, chosen[n]) for n in names]
                gains += [
                    PairedGain(
                        model,
                        task,
                        name,
                        reference,
                        grouping,
                        group,
                        _gain(chosen[name], chosen[reference], seed),
                    )
                    for name, reference in comparisons
                ]
    return Summary(tuple(accuracies), tuple(gains))


def _groups(
    records: Sequence[Record], group_of: Callable[[Record], str | None]
) -> dict[str, list[int]]:
    """Positions of the records of each group, groups in order of name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        group = group_of(record)
        if group is not None:
            groups[group].append(index)
    return {g: groups[g] for g in sorted(groups, key=lambda g: (len(g) if g.isdigit() else 0, g))}


def _accuracy(
    model: str, task: str, method: str, grouping: str, group: str, records: Sequence[Record]
) -> Accuracy:
    total = len(records)
    correct = sum(r.correct for r in records)
    low, high = wilson_interval(correct, total)
    confidences = [r.confidence for r in records if r.confidence is not None]
    alphas: dict[str, int] = defaultdict(int)
    for record in records:
        alphas[f"{record.alpha:g}"] += 1
    return Accuracy(
        model=model,
        task=task,
        method=method,
        grouping=grouping,
        group=group,
        questions=total,
        correct=correct,
        accuracy=correct / total,
        low=low,
        high=high,
        strict_accuracy=sum(r.strict for r in records) / total,
        in_candidates=sum(r.in_candidates for r in records) / total,
        applied=sum(r.applied for r in records) / total,
        mean_confidence=sum(confidences) / len(confidences) if confidences else None,
        alphas=dict(sorted(alphas.items(), key=lambda item: float(item[0]))),
    )


def _gain(treated: Sequence[Record], reference: Sequence[Record], seed: int) -> Gain:
    return paired_gain(
        [r.correct for r in treated],
        [r.correct for r in reference],
        [r.image_id for r in treated],
        seed=seed,
    )


def write_summary(
    summary: Summary,
    folder: Path,
    *,
    run: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, str]],
    errors: Iterable[Failures] = (),
) -> None:
    """Write `summary.json`: versions, configuration, errors, accuracies and gains.

    Engine descriptions of an earlier, interrupted part of the run are kept.
    """
    path = folder / SUMMARY
    engines = {**_earlier_engines(path), **engines}
    value = {
        "versions": versions(engines),
        "run": dict(run),
        "engines": engines,
        "errors": [asdict(e) for e in errors],
        "accuracies": [asdict(a) for a in summary.accuracies],
        "gains": [_gain_values(g) for g in summary.gains],
    }
    # An infinite standard error (one image only) has no JSON number.
    text = json.dumps(value, indent=1, ensure_ascii=False).replace(": Infinity", ": null")
    write_atomically(path, text + "\n")


def _gain_values(item: PairedGain) -> dict[str, Any]:
    values = asdict(item)
    values |= values.pop("gain") | {"verdict": item.gain.verdict}
    return values


def _earlier_engines(path: Path) -> dict[str, Any]:
    try:
        engines = json.loads(path.read_text(encoding="utf-8"))["engines"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return engines if isinstance(engines, dict) else {}
