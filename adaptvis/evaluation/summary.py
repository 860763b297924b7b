"""From records to accuracies, gains, metrics and calibration per group of questions.

Tables, plots and the report read the summary; nothing but this module counts records.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from adaptvis.errors import ConfigError, DataError, unknown_name
from adaptvis.evaluation.calibration import calibrate
from adaptvis.evaluation.groupings import ALL, GROUPINGS, members_of
from adaptvis.evaluation.metrics import MetricFunction, task_metrics
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.results import (
    SCORINGS,
    Accuracy,
    Branch,
    Calibration,
    LeftOut,
    Metric,
    MetricGain,
    PairedGain,
    Scoring,
    Summary,
    Torn,
)
from adaptvis.evaluation.statistics import Gain, mcnemar, paired_gain, points_interval
from adaptvis.evaluation.summary_file import read_summary, write_summary
from adaptvis.tasks import TASKS
from adaptvis.tasks.units import torn_questions

__all__ = [
    "ALL",
    "GROUPINGS",
    "Accuracy",
    "Gain",
    "PairedGain",
    "Summary",
    "answered_by_all",
    "failed",
    "read_summary",
    "right",
    "summarise",
    "write_summary",
]


def summarise(
    records: Iterable[Record],
    *,
    seed: int = 0,
    scoring: Scoring = "reference",
    metrics: Mapping[str, MetricFunction] | None = None,
    joined_by: Mapping[str, str | None] | None = None,
) -> Summary:
    """Accuracies of every method, and gains over the first method and over the one before.

    A question that one method could not be asked counts for none.

    Args:
        seed: of the bootstrap.
        scoring: the headline rule of accuracies, gains, metrics and calibration.
        metrics: more than accuracy, by task name; see :attr:`adaptvis.tasks.Task.metrics`.
        joined_by: the tag whose questions they join, by task name; of a published task that is
            not named here, the published one.

    Raises:
        ConfigError: unknown scoring.
        DataError: no question was answered.
    """
    if scoring not in SCORINGS:
        raise ConfigError(unknown_name("scoring", scoring, SCORINGS))
    by_pair: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(dict)
    for record in records:
        methods = by_pair[record.model, record.task]
        methods.setdefault(record.method, []).append(record)
    tags = {name: listed.joined_by for name, listed in TASKS.items()} | dict(joined_by or {})
    parts = [
        _Pair(model, task, methods, seed, scoring, tags.get(task))
        for (model, task), methods in by_pair.items()
    ]
    if by_pair and not any(part.questions for part in parts):
        raise DataError(
            "No question was answered under every method; the field error of records.jsonl says why"
        )
    answered = [part for part in parts if part.questions]
    found = [part.metrics((metrics or {}).get(part.task)) for part in answered]
    return Summary(
        accuracies=tuple(a for part in answered for a in part.accuracies()),
        gains=tuple(g for part in answered for g in part.gains()),
        metrics=tuple(m for of_part, _ in found for m in of_part),
        metric_gains=tuple(g for _, of_part in found for g in of_part),
        calibrations=tuple(c for part in answered for c in part.calibrations()),
        branches=tuple(b for part in answered for b in part.branches()),
        left_out=tuple(item for part in parts for item in part.left_out),
        torn=tuple(item for part in answered for item in part.torn()),
        scoring=scoring,
    )


def answered_by_all(
    methods: Mapping[str, Sequence[Record]],
) -> tuple[dict[str, list[Record]], dict[str, int]]:
    """The records of questions that every method answered, in the first method's order.

    Also returns how many questions were left out, by reason.
    """
    by_id = {name: {record.id: record for record in of} for name, of in methods.items()}
    kept: dict[str, list[Record]] = {name: [] for name in methods}
    left_out: dict[str, int] = defaultdict(int)
    for identifier in dict.fromkeys(r.id for of in methods.values() for r in of):
        found = [of.get(identifier) for of in by_id.values()]
        if any(r is not None and failed(r) for r in found):
            left_out["could not be asked"] += 1
        elif None in found:
            left_out["not answered under every method"] += 1
        else:
            for name, of in by_id.items():
                kept[name].append(of[identifier])
    return kept, dict(left_out)


def failed(record: Record) -> bool:
    """Whether the question could not be asked, so that there is no answer to grade."""
    return record.error != ""


def right(record: Record, scoring: Scoring) -> bool:
    """Whether the answer is right under a scoring."""
    return record.strict if scoring == "strict" else record.correct


class _Pair:
    """The results of one model on one task."""

    def __init__(
        self,
        model: str,
        task: str,
        methods: Mapping[str, Sequence[Record]],
        seed: int,
        scoring: Scoring,
        joined_by: str | None,
    ) -> None:
        self.model, self.task, self.seed, self.scoring = model, task, seed, scoring
        self.joined_by = joined_by
        self.records, left_out = answered_by_all(methods)
        self.left_out = [LeftOut(model, task, n, reason) for reason, n in left_out.items()]
        self.names = list(methods)
        self.first = self.names[0]
        self.questions = len(self.records[self.first])
        self.comparisons = [(name, self.first) for name in self.names[1:]]
        self.comparisons += list(zip(self.names[2:], self.names[1:-1], strict=True))
        self.groups = {
            (grouping, group): members
            for grouping, group_of in GROUPINGS.items()
            for group, members in members_of(self.records[self.first], group_of).items()
        }

    def points(self, record: Record) -> float:
        return float(record.strict) if self.scoring == "strict" else record.score

    def chosen(self, method: str, members: Sequence[int]) -> list[Record]:
        return [self.records[method][i] for i in members]

    def accuracies(self) -> list[Accuracy]:
        return [
            self._accuracy(name, grouping, group, self.chosen(name, members))
            for (grouping, group), members in self.groups.items()
            for name in self.names
        ]

    def gains(self) -> list[PairedGain]:
        return [
            self._gain(name, reference, grouping, group, members)
            for (grouping, group), members in self.groups.items()
            for name, reference in self.comparisons
        ]

    def metrics(self, metric: MetricFunction | None) -> tuple[list[Metric], list[MetricGain]]:
        if metric is None:
            return [], []
        records = self.records
        if self.scoring == "strict":
            records = {
                name: [replace(r, correct=r.strict, score=float(r.strict)) for r in of]
                for name, of in records.items()
            }
        return task_metrics(
            metric, records, self.comparisons, joined_by=self.joined_by, seed=self.seed
        )

    def torn(self) -> list[Torn]:
        if self.joined_by is None:
            return []
        torn = torn_questions([r.tags for r in self.records[self.first]], self.joined_by)
        return [Torn(self.model, self.task, torn, self.questions)] if torn else []

    def calibrations(self) -> list[Calibration]:
        found = []
        for name in self.names:
            sure = [r for r in self.records[name] if r.confidence is not None]
            calibration = calibrate(
                [r.confidence for r in sure if r.confidence is not None],
                [self.points(r) for r in sure],
                [r.image_id for r in sure],
                model=self.model,
                task=self.task,
                method=name,
                seed=self.seed,
            )
            found += [] if calibration is None else [calibration]
        return found

    def branches(self) -> list[Branch]:
        found = []
        for name in self.names:
            members: dict[tuple[float, bool], list[int]] = defaultdict(list)
            for index, record in enumerate(self.records[name]):
                members[record.alpha, record.applied].append(index)
            found += [
                Branch(
                    model=self.model,
                    task=self.task,
                    method=name,
                    alpha=alpha,
                    applied=applied,
                    questions=len(of_branch),
                    share=len(of_branch) / self.questions,
                    accuracy=self._mean(name, of_branch),
                    first_accuracy=self._mean(self.first, of_branch),
                )
                for (alpha, applied), of_branch in sorted(members.items())
            ]
        return found

    def _mean(self, method: str, members: Sequence[int]) -> float:
        return sum(self.points(r) for r in self.chosen(method, members)) / len(members)

    def _accuracy(
        self, method: str, grouping: str, group: str, records: Sequence[Record]
    ) -> Accuracy:
        total = len(records)
        points = [self.points(r) for r in records]
        low, high, interval = points_interval(points, [r.image_id for r in records], seed=self.seed)
        confidences = [r.confidence for r in records if r.confidence is not None]
        alphas: dict[str, int] = defaultdict(int)
        for record in records:
            alphas[f"{record.alpha:g}"] += 1
        return Accuracy(
            model=self.model,
            task=self.task,
            method=method,
            grouping=grouping,
            group=group,
            questions=total,
            correct=sum(right(r, self.scoring) for r in records),
            accuracy=sum(points) / total,
            low=low,
            high=high,
            interval=interval,
            reference_accuracy=sum(r.score for r in records) / total,
            strict_accuracy=sum(r.strict for r in records) / total,
            in_candidates=sum(r.in_candidates for r in records) / total,
            applied=sum(r.applied for r in records) / total,
            mean_confidence=sum(confidences) / len(confidences) if confidences else None,
            alphas=dict(sorted(alphas.items(), key=lambda item: float(item[0]))),
        )

    def _gain(
        self, method: str, reference: str, grouping: str, group: str, members: Sequence[int]
    ) -> PairedGain:
        treated, before = self.chosen(method, members), self.chosen(reference, members)
        now, then = [self.points(r) for r in treated], [self.points(r) for r in before]
        gain = paired_gain(now, then, [r.image_id for r in treated], seed=self.seed)
        whole = all(p in (0.0, 1.0) for p in (*now, *then))
        test = mcnemar([p == 1 for p in now], [p == 1 for p in then]) if whole else None
        return PairedGain(self.model, self.task, method, reference, grouping, group, gain, test)
