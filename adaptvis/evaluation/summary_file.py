"""`summary.json`: the results of a run with its configuration and versions, written and read."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptvis.errors import DataError
from adaptvis.evaluation.environment import versions
from adaptvis.evaluation.failures import Failures
from adaptvis.evaluation.output import SUMMARY, write_atomically
from adaptvis.evaluation.results import (
    SCORINGS,
    Accuracy,
    Branch,
    Calibration,
    CalibrationBin,
    LeftOut,
    Metric,
    MetricGain,
    PairedGain,
    Summary,
    Torn,
)
from adaptvis.evaluation.statistics import Gain, McNemar

__all__ = ["read_summary", "write_summary"]

_GAIN = ("mean", "low", "high", "standard_error", "questions", "images")


def write_summary(
    summary: Summary,
    folder: Path,
    *,
    run: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, str]],
    errors: Iterable[Failures] = (),
) -> None:
    """Write `summary.json`: versions, configuration, errors and all results.

    Engine descriptions of an earlier, interrupted part of the run are kept.
    """
    path = folder / SUMMARY
    engines = {**_earlier_engines(path), **engines}
    value = {
        "versions": versions(engines),
        "run": dict(run),
        "engines": engines,
        "errors": [asdict(e) for e in errors],
        "scoring": summary.scoring,
        "accuracies": [asdict(a) for a in summary.accuracies],
        "gains": [_gain_values(g) for g in summary.gains],
        "metrics": [asdict(m) for m in summary.metrics],
        "metric_gains": [asdict(g) | {"verdict": g.verdict} for g in summary.metric_gains],
        "calibrations": [asdict(c) for c in summary.calibrations],
        "branches": [asdict(b) for b in summary.branches],
        "left_out": [asdict(item) for item in summary.left_out],
        "torn": [asdict(item) for item in summary.torn],
    }
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def read_summary(folder: Path) -> tuple[Summary, dict[str, dict[str, str]]]:
    """The results of a finished run and the descriptions of its engines, by model.

    Raises:
        DataError: the folder has no summary, or one of another version of adaptvis.
    """
    path = folder / SUMMARY
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"{folder} has no {SUMMARY}; finish the run with adaptvis eval --resume first"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); write it again") from None
    try:
        summary = Summary(
            accuracies=tuple(Accuracy(**item) for item in value["accuracies"]),
            gains=tuple(_gain(item) for item in value["gains"]),
            metrics=tuple(Metric(**item) for item in value["metrics"]),
            metric_gains=tuple(_without_verdict(MetricGain, g) for g in value["metric_gains"]),
            calibrations=tuple(_calibration(item) for item in value["calibrations"]),
            branches=tuple(Branch(**item) for item in value["branches"]),
            left_out=tuple(LeftOut(**item) for item in value["left_out"]),
            torn=tuple(Torn(**item) for item in value.get("torn", ())),
            scoring=SCORINGS[SCORINGS.index(value["scoring"])],
        )
        engines = {str(model): dict(told) for model, told in value["engines"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path} is not a summary of this version of adaptvis; write it again with the same "
            "adaptvis eval command and --resume"
        ) from None
    return summary, engines


def _gain_values(item: PairedGain) -> dict[str, Any]:
    values = asdict(item)
    values |= values.pop("gain") | {"verdict": item.gain.verdict}
    if math.isinf(values["standard_error"]):
        values["standard_error"] = None  # one image only; JSON has no infinity
    return values


def _gain(item: Mapping[str, Any]) -> PairedGain:
    values = dict(item)
    del values["verdict"]
    gain = {name: values.pop(name) for name in _GAIN}
    if gain["standard_error"] is None:
        gain["standard_error"] = math.inf
    test = values.pop("test")
    return PairedGain(**values, gain=Gain(**gain), test=None if test is None else McNemar(**test))


def _without_verdict(kind: Callable[..., MetricGain], item: Mapping[str, Any]) -> MetricGain:
    return kind(**{name: value for name, value in item.items() if name != "verdict"})


def _calibration(item: Mapping[str, Any]) -> Calibration:
    return Calibration(**(dict(item) | {"bins": tuple(CalibrationBin(**b) for b in item["bins"])}))


def _earlier_engines(path: Path) -> dict[str, Any]:
    try:
        engines = json.loads(path.read_text(encoding="utf-8"))["engines"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return engines if isinstance(engines, dict) else {}
