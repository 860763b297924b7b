"""Interleaved rounds, and what comes out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles

from rich.progress import track

__all__ = ["COMPARISONS", "Row", "interleaved", "rows_of"]

# (base, ours, target): throughput of ours over that of the base.
COMPARISONS = (
    ("absent", "idle", 0.99),
    ("idle", "scalingvis", 0.95),
    ("idle", "adaptvis", 0.95),
)


@dataclass(frozen=True)
class Row:
    """One comparison. Values are medians over the rounds, spreads their interquartile ranges.

    ratio: how much of the base's speed is left, of the medians; above 1 where ours was faster.
    """

    what: str
    unit: str
    base: str
    ours: str
    base_value: float
    our_value: float
    base_spread: float
    our_spread: float
    ratio: float
    target: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def interleaved(
    names: Sequence[str], run: Callable[[str], dict[str, float]], rounds: int, label: str
) -> dict[str, dict[str, list[float]]]:
    """Values by measure and contestant; each round starts with another one."""
    found: dict[str, dict[str, list[float]]] = {}
    for index in track(range(rounds), description=label):
        shift = index % len(names)
        for name in (*names[shift:], *names[:shift]):
            for measure, value in run(name).items():
                found.setdefault(measure, {}).setdefault(name, []).append(value)
    return found


def rows_of(
    what: str, unit: str, values: dict[str, list[float]], *, more_is_better: bool
) -> list[Row]:
    """The comparisons of one measure."""
    rows = []
    for base, ours, target in COMPARISONS:
        a, b = median(values[base]), median(values[ours])
        ratio = b / a if more_is_better else a / b
        rows.append(
            Row(
                what,
                unit,
                base,
                ours,
                a,
                b,
                _spread(values[base]),
                _spread(values[ours]),
                ratio,
                target,
            )
        )
    return rows


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = quantiles(values, n=4, method="inclusive")
    return third - first
