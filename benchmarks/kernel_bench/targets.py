"""What the kernels are meant to reach, and whether a run showed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from kernel_bench.problem import Record

# From this many columns on a context is long.
LONG_CONTEXT = 8192
Values = Iterator[tuple[float, Record]]


@dataclass(frozen=True)
class Target:
    """values: the measured numbers, one per shape and variant; all of them must reach ``bound``."""

    text: str
    bound: float
    at_most: bool
    values: Callable[[Sequence[Record]], Values]

    def judge(self, records: Sequence[Record]) -> tuple[str, str]:
        """ "met", "not met" or "not measured", and the numbers behind it."""
        found = list(self.values(records))
        if not found:
            return "not measured", ""
        choose = max if self.at_most else min
        worst, record = choose(found, key=lambda pair: pair[0])
        reached = worst <= self.bound if self.at_most else worst >= self.bound
        middle = median(value for value, _ in found)
        numbers = (
            f"worst {worst:.3f} ({record.model}, {record.shape}, {record.variant}), "
            f"median {middle:.3f} of {len(found)}"
        )
        return "met" if reached else "not met", numbers


def _right(records: Sequence[Record], kernel: str) -> Iterator[Record]:
    return (r for r in records if r.kernel == kernel and r.ours and r.microseconds is not None)


def _over_alpha_one(records: Sequence[Record]) -> Values:
    for record in _right(records, "steered_paged_decode"):
        twin = record.variant.replace("steered", "alpha 1")
        if record.variant.startswith("steered") and twin in record.time_over:
            yield record.time_over[twin], record


def _long_context(records: Sequence[Record]) -> Values:
    for record in _right(records, "steered_paged_decode"):
        sizes = record.dimensions
        long = (sizes["columns"] or 0) >= LONG_CONTEXT and sizes["window"] is None
        if long and sizes["rows"] == 1 and record.variant.startswith("steered"):
            yield record.share_of_ceiling or 0.0, record


def _speed_of(baseline: str) -> Callable[[Sequence[Record]], Values]:
    """The baseline's time over ours, of the prefill with all rows steered."""

    def values(records: Sequence[Record]) -> Values:
        for record in _right(records, "steered_prefill"):
            if record.variant == "all rows steered" and baseline in record.time_over:
                yield 1 / record.time_over[baseline], record

    return values


def _share(kernel: str, backward: int) -> Callable[[Sequence[Record]], Values]:
    def values(records: Sequence[Record]) -> Values:
        for record in _right(records, kernel):
            if record.dimensions["backward"] == backward:
                yield record.share_of_ceiling or 0.0, record

    return values


TARGETS = (
    Target("steered decode: time over that with alpha 1", 1.02, True, _over_alpha_one),
    Target(
        f"steered decode, 1 row, context >= {LONG_CONTEXT}: share of copy bandwidth",
        0.8,
        False,
        _long_context,
    ),
    Target(
        "steered prefill: speed over unsteered SDPA flash",
        0.8,
        False,
        _speed_of("SDPA flash, unsteered"),
    ),
    Target(
        "steered prefill: speed over unsteered SDPA cuDNN",
        0.8,
        False,
        _speed_of("SDPA cuDNN, unsteered"),
    ),
    Target(
        "steered prefill: speed over FlexAttention",
        1.3,
        False,
        _speed_of("FlexAttention score_mod, compiled"),
    ),
    *(
        Target(
            f"{kernel}, {'backward' if backward else 'forward'}: share of copy bandwidth",
            0.85,
            False,
            _share(kernel, backward),
        )
        for kernel in ("rescale_norms", "normalize_projection")
        for backward in (0, 1)
    ),
)
